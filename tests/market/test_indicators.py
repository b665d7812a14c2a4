"""Indicators agree with TA-Lib and float64 references, and every registered member takes one battery."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import talib
import yaml

from jaxarena.core import reduce as rows
from jaxarena.core.types import Bar
from jaxarena.market import indicators as ind
from tests.reference import indicators as reference

MEMBERS = {kind: member() for kind, member in sorted(ind.Indicator.members.items())}
LENGTH = 120  # bars of most histories, so that programs are compiled once
N_ASSETS = 2


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@functools.cache
def make_bars(kind, length=LENGTH, seed=0):
    """A history [T, A] of one kind, as int32 ticks and float32 lots that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    shape = (length, N_ASSETS)
    level, scale = {"walk": (10_000.0, 0.01), "large": (3e7, 0.002), "clustered": (50_000.0, 0.015)}[kind]
    volatility = np.full(shape, scale)
    if kind == "clustered":  # volatility follows an AR(1), gaps overnight, some bars trade nothing
        for t in range(1, length):
            volatility[t] = scale * np.exp(0.95 * np.log(volatility[t - 1] / scale) + 0.2 * rng.normal(size=N_ASSETS))
    close = level * np.exp(np.cumsum(volatility * rng.standard_t(4, shape) / np.sqrt(2), axis=0))
    opened = np.vstack([close[:1], close[:-1]]) * np.exp(0.3 * volatility * rng.normal(size=shape))
    high = np.maximum(opened, close) * np.exp(volatility * rng.exponential(0.3, shape))
    low = np.minimum(opened, close) * np.exp(-volatility * rng.exponential(0.3, shape))
    volume = np.floor(rng.lognormal(16, 1, shape)) * (rng.random(shape) > 0.1)
    ticks = [np.float32(np.round(column)).astype(np.int32) for column in (opened, high, low, close)]
    return Bar(*(jnp.asarray(column) for column in ticks), volume=jnp.asarray(volume, jnp.float32))


def constant_bars(length=LENGTH, ticks=500, volume=0.0):
    price = jnp.full((length, N_ASSETS), ticks, jnp.int32)
    return Bar(price, price, price, price, jnp.full((length, N_ASSETS), volume, jnp.float32))


def row(bars, t):
    return jax.tree.map(lambda leaf: leaf[t], bars)


at = jax.jit(ind.Window.at, static_argnums=2)


@functools.cache
def follower(indicator):
    """The jitted loop of `follow`. The indicator is closed over: it is what the program is about."""

    def outcome(carry, window):
        carry, values = indicator.update(carry, window)
        return carry, (values, indicator.features(values, window))

    def step(state, bar):
        window = state[0].push(bar)
        carry, out = outcome(state[1], window)
        return (window, carry), out

    @jax.jit
    def run(bars):
        window = ind.Window.start(row(bars, 0), ind.window_length((indicator,)))
        carry, first = outcome(indicator.init(bars.close.shape[1]), window)
        _, rest = jax.lax.scan(step, (window, carry), jax.tree.map(lambda leaf: leaf[1:], bars))
        return jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), first, rest)

    return run


def follow(indicator, bars):
    """Values and features after each bar, each [T, F, A]."""
    return follower(indicator)(bars)


@functools.cache
def carries_after(indicator, kind, seed=0):
    """The carries after each bar of a history of `LENGTH` bars."""
    length = ind.window_length((indicator,))
    return jax.jit(lambda bars: ind.scan_history((indicator,), bars, length)[0])(make_bars(kind, LENGTH, seed))


def columns(bars, asset):
    return jax.tree.map(lambda leaf: np.asarray(leaf[:, asset], np.float64), bars)


# Each oracle maps float64 columns [T] to the series of each output. Tolerances are absolute, in
# units of the close (price), the mean absolute close change (move), the values' deviation or their largest size.
ORACLES = [
    (ind.Sma(period=20), lambda x: [talib.SMA(x.close, 20)], 1e-6, "price"),
    (ind.Sma(period=3), lambda x: [talib.SMA(x.close, 3)], 1e-6, "price"),
    (ind.Ema(period=20), lambda x: [talib.EMA(x.close, 20)], 1e-6, "price"),
    (ind.Ema(period=1), lambda x: [x.close], 1e-6, "price"),
    (ind.Rsi(), lambda x: [talib.RSI(x.close, 14)], 1e-5, "deviation"),
    (ind.Rsi(period=2), lambda x: [talib.RSI(x.close, 2)], 1e-5, "deviation"),
    (ind.Macd(), lambda x: talib.MACD(x.close, 12, 26, 9), 5e-5, "move"),
    (ind.Macd(fast=3, slow=17, signal=5), lambda x: talib.MACD(x.close, 3, 17, 5), 5e-5, "move"),
    (ind.Bollinger(), lambda x: talib.BBANDS(x.close, 20, 2.0, 2.0), 1e-6, "price"),
    (ind.Bollinger(period=5, deviations=1.5), lambda x: talib.BBANDS(x.close, 5, 1.5, 1.5), 1e-6, "price"),
    (ind.Atr(), lambda x: [talib.ATR(x.high, x.low, x.close, 14)], 5e-5, "move"),
    (ind.Atr(period=3), lambda x: [talib.ATR(x.high, x.low, x.close, 3)], 5e-5, "move"),
    (ind.Stochastic(), lambda x: talib.STOCH(x.high, x.low, x.close, 5, 3, 0, 3, 0), 1e-5, "deviation"),
    (ind.Stochastic(fast_k=14, slow_k=1, slow_d=4),
     lambda x: talib.STOCH(x.high, x.low, x.close, 14, 1, 0, 4, 0), 1e-5, "deviation"),
    (ind.Obv(), lambda x: [talib.OBV(x.close, x.volume)], 1.2e-7, "peak"),
    (ind.RealizedVolatility(), lambda x: [reference.realized_volatility(x.close, 20)], 3e-6, "deviation"),
    (ind.VwapDistance(), lambda x: [reference.vwap_distance(x.high, x.low, x.close, x.volume, 20)], 3e-6, "deviation"),
    (ind.VwapDistance(period=2),
     lambda x: [reference.vwap_distance(x.high, x.low, x.close, x.volume, 2)], 3e-6, "deviation"),
    (ind.ZScore(), lambda x: [reference.z_score(x.close, 20)], 1e-5, "deviation"),
]  # fmt: skip


@pytest.mark.parametrize(("indicator", "oracle", "tolerance", "unit"), ORACLES, ids=lambda x: getattr(x, "kind", str)())
def test_values_agree_with_the_oracle_from_warmup_on(indicator, oracle, tolerance, unit):
    histories = [make_bars(kind, 1_000) for kind in ("walk", "large", "clustered")]
    bars = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *histories)
    values, _ = follow(indicator, bars)
    for asset in range(bars.close.shape[1]):
        series = columns(bars, asset)
        close = series.close
        expected = np.stack(oracle(series))
        start = indicator.warmup - 1
        assert np.isfinite(expected[:, start:]).all()
        assert start == 0 or np.isnan(expected[:, start - 1]).all(), "warmup is later than the oracle's first value"
        scale = {
            "price": close.min(),
            "move": np.abs(np.diff(close)).mean(),
            "deviation": np.nanstd(expected),
            "peak": np.nanmax(np.abs(expected)),
        }[unit]
        np.testing.assert_allclose(
            np.asarray(values[start:, :, asset]).T, expected[:, start:], rtol=0, atol=tolerance * scale
        )


def test_every_member_has_an_oracle():
    assert {type(indicator) for indicator, *_ in ORACLES} >= {
        member for member in ind.Indicator.members.values() if member.__module__.startswith("jaxarena.")
    }


def test_hand_computed_values():
    """Closes 10, 12, 11, 14 with high = close + 1, low = close - 1 and volumes 1, 2, 3, 4."""
    close = jnp.array([[10], [12], [11], [14]], jnp.int32)
    bars = Bar(close, close + 1, close - 1, close, jnp.array([[1.0], [2.0], [3.0], [4.0]]))
    expected = {
        ind.Sma(period=2): [12.5],
        ind.Ema(period=2): [13.0],  # seed (10 + 12) / 2 = 11, stays 11, then 11 + 2/3 * 3
        ind.Rsi(period=2): [100 * 2 / 2.25],  # gains 2, 0 | 3 and losses 0, 1 | 0: seed (1, .5), then (2, .25)
        ind.Bollinger(period=2): [12.5 + 2 * 1.5, 12.5, 12.5 - 2 * 1.5],
        ind.Atr(period=2): [(2.5 + 4) / 2],  # true ranges 3, 2 | 4
        ind.Stochastic(fast_k=2, slow_k=1, slow_d=2): [80.0, (80.0 + 100 / 3) / 2],  # %K of (11: 10..13), (14: 10..15)
        ind.Obv(period=2): [1 + 2 - 3 + 4],
        ind.RealizedVolatility(period=1): [np.log(14 / 11)],
        ind.VwapDistance(period=2): [14 / ((3 * 11 + 4 * 14) / 7) - 1],
        ind.ZScore(period=2): [1.0],
    }
    for indicator, last in expected.items():
        values, _ = follow(indicator, bars)
        np.testing.assert_allclose(values[-1, :, 0], last, rtol=1e-6, err_msg=indicator.kind())


def test_hand_computed_macd():
    """fast(1) is the close; slow(2) is seeded by 20; signal(2) by the first two differences."""
    price = jnp.array([[10], [30], [40], [80]], jnp.int32)
    values, _ = follow(ind.Macd(fast=1, slow=2, signal=2), Bar(price, price, price, price, jnp.ones((4, 1))))
    slow = [20.0, 20 + 2 / 3 * 20, 20 + 2 / 3 * 20 + 2 / 3 * (80 - 20 - 2 / 3 * 20)]
    macd = [30 - slow[0], 40 - slow[1], 80 - slow[2]]
    signal = (macd[0] + macd[1]) / 2
    signal += 2 / 3 * (macd[2] - signal)
    np.testing.assert_allclose(values[-1, :, 0], [macd[2], signal, macd[2] - signal], rtol=1e-6)


@pytest.mark.parametrize("kind", MEMBERS)
class TestEveryMember:
    """One battery; a new member takes it by being registered."""

    @pytest.fixture
    def indicator(self, kind):
        return MEMBERS[kind]

    @pytest.fixture
    def window(self, indicator):
        return at(make_bars("walk"), jnp.int32(70), ind.window_length((indicator,)))

    def test_yaml_round_trip(self, indicator):
        decoded = ind.Indicator.decode(yaml.safe_load(yaml.safe_dump(indicator.encode())), "indicator")
        assert type(decoded) is type(indicator)
        assert decoded.encode() == indicator.encode()
        decoded.validate()

    def test_structure_and_dtypes_are_kept(self, indicator, window):
        carry = indicator.init(N_ASSETS)
        after, values = jax.jit(indicator.update)(carry, window)
        chex.assert_trees_all_equal_shapes_and_dtypes(carry, after)
        features = indicator.features(values, window)
        assert values.shape == features.shape == (len(indicator.outputs), N_ASSETS)
        assert values.dtype == features.dtype == jnp.float32

    def test_traces_once(self, indicator, window):
        chex.clear_trace_counter()

        @jax.jit
        @chex.assert_max_traces(n=1)
        def update(indicator, carry, window):
            return indicator.update(carry, window)

        carry = indicator.init(N_ASSETS)
        for t in range(3):
            carry, _ = update(indicator, carry, window)
            window = window.push(row(make_bars("walk"), 71 + t))

    def test_vmap_over_the_last_axis_equals_a_loop(self, indicator):
        length = ind.window_length((indicator,))
        histories = [make_bars("clustered", seed=seed) for seed in range(3)]
        starts = [20, 45, 59]
        windows = [at(bars, jnp.int32(t), length) for bars, t in zip(histories, starts, strict=True)]
        carries = [row(carries_after(indicator, "clustered", seed), 19) for seed in range(3)]

        def outcome(carry, window):
            carry, values = indicator.update(carry, window)
            return carry, values, indicator.features(values, window)

        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-1), *trees)  # noqa: E731
        together = jax.jit(jax.vmap(outcome, in_axes=-1, out_axes=-1))(stack(carries), stack(windows))
        alone = stack([outcome(carry, window) for carry, window in zip(carries, windows, strict=True)])
        chex.assert_trees_all_close(together, alone, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("bars", [
        constant_bars(), constant_bars(ticks=1, volume=5.0), constant_bars(ticks=40_000_000, volume=1e9),
    ])  # fmt: skip
    def test_finite_on_constant_prices_and_zero_volume(self, indicator, bars):
        values, features = follow(indicator, bars)
        assert np.isfinite(values).all()
        assert np.isfinite(features).all()
        if isinstance(indicator, (ind.Atr, ind.RealizedVolatility)):
            assert (features[indicator.warmup :] == -ind.FEATURE_LIMIT).all()
        else:
            np.testing.assert_array_equal(features, 0.0)

    def test_finite_when_prices_jump(self, indicator):
        price = jnp.tile(jnp.array([[1], [40_000_000], [1], [1], [3]], jnp.int32), (LENGTH // 5, N_ASSETS))
        bars = Bar(price, price, price, price, jnp.zeros(price.shape).at[7].set(1e9))
        values, features = follow(indicator, bars)
        assert np.isfinite(values).all()
        assert np.isfinite(features).all()

    def test_features_are_zero_before_warmup_and_bounded_after(self, indicator):
        _, features = follow(indicator, make_bars("clustered"))
        assert (features[: indicator.warmup - 1] == 0).all()
        later = np.asarray(features[indicator.warmup + 1 :])
        assert (np.abs(later) <= ind.FEATURE_LIMIT).all()
        assert (np.abs(later) == ind.FEATURE_LIMIT).mean() < 0.05
        assert (later.std(axis=0) > 0.1).all()

    def test_features_are_free_of_scale(self, indicator):
        bars = make_bars("walk")
        scaled = jax.tree.map(lambda leaf: leaf * 64, bars)  # a power of two: float32 rounds alike
        np.testing.assert_allclose(follow(indicator, bars)[1], follow(indicator, scaled)[1], atol=1e-5)

    def test_rows_beyond_lookback_do_not_matter(self, indicator):
        bars, t = make_bars("walk"), jnp.int32(80)
        carry = row(carries_after(indicator, "walk"), 79)
        exact = at(bars, t, indicator.lookback)
        longer = at(bars, t, indicator.lookback + 5)
        longer = longer.replace(bars=longer.bars.at[:5].set(jnp.nan))
        for window in (exact, longer):
            after, values = indicator.update(carry, window)
            outcome = (after, values, indicator.features(values, window))
            chex.assert_tree_all_finite(outcome)
            if window is exact:
                expected = outcome
        chex.assert_trees_all_close(outcome, expected, rtol=1e-6)

    def test_a_window_that_is_too_short_is_refused(self, indicator):
        window = at(make_bars("walk"), jnp.int32(80), indicator.lookback - 1)

        def outcome(window):
            _, values = indicator.update(indicator.init(N_ASSETS), window)
            return indicator.features(values, window)

        if indicator.lookback > 1:
            with pytest.raises(ValueError, match=r"window: .* rows are needed"):
                jax.eval_shape(outcome, window)

    def test_history_carries_equal_stepping(self, indicator):
        bars, length = make_bars("walk"), ind.window_length((indicator,))
        stacked = carries_after(indicator, "walk")
        carry, step = indicator.init(N_ASSETS), jax.jit(indicator.update)
        for t in range(40):
            carry, _ = step(carry, at(bars, jnp.int32(t), length))
            chex.assert_trees_all_close(row(stacked, t), carry, rtol=1e-4, atol=1e-3)


def test_history_of_several_indicators_keeps_their_order():
    bars, indicators = make_bars("walk", 30), (ind.Macd(), ind.Sma(), ind.Rsi())
    carries = ind.scan_history(indicators, bars, ind.window_length(indicators))
    assert [jax.tree.map(jnp.shape, carry) for carry in carries] == [(30, 3, N_ASSETS), (), (30, 2, N_ASSETS)]


def test_window_keeps_the_newest_bars_and_pads_with_the_first():
    bars = make_bars("walk", 9)
    window = ind.Window.start(row(bars, 0), 4)
    for t in range(9):
        if t:
            window = window.push(row(bars, t))
        kept = [max(i, 0) for i in range(t - 3, t + 1)]
        for name in ("open", "high", "low", "close"):
            np.testing.assert_array_equal(getattr(window, name), np.asarray(getattr(bars, name))[kept])
        seen = np.array([i >= 0 for i in range(t - 3, t + 1)])[:, None]
        np.testing.assert_array_equal(window.volume, np.asarray(bars.volume)[kept] * seen)
        assert int(window.count) == t + 1
        assert window.count.dtype == jnp.int32
        chex.assert_trees_all_equal(window, at(bars, jnp.int32(t), 4))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 32, 33, 100, 131])
def test_fold_equals_a_reduction(length):
    array = np.random.default_rng(length).integers(-1000, 1000, (length, 3)).astype(np.float32)
    np.testing.assert_array_equal(rows.fold(jnp.add, jnp.asarray(array)), array.sum(axis=0))
    np.testing.assert_array_equal(rows.fold(jnp.minimum, jnp.asarray(array)), array.min(axis=0))


def test_typical_move_counts_only_what_was_seen():
    price = jnp.array([[100], [104], [98]], jnp.int32)
    bars = Bar(price, price, price, price, jnp.ones((3, 1)))
    assert float(at(bars, jnp.int32(2), 21).typical_move()[0]) == 5.0
    assert float(at(bars, jnp.int32(0), 21).typical_move()[0]) == 1.0


def test_nothing_moves_is_neutral_not_a_crash():
    """TA-Lib writes 0 for 0 / 0, the value of a price that only falls."""
    for indicator in (MEMBERS["rsi"], MEMBERS["stochastic"]):
        values, _ = follow(indicator, constant_bars())
        np.testing.assert_array_equal(values, 50.0)


@pytest.mark.parametrize(
    ("indicator", "message"),
    [
        (ind.Sma(period=0), "period is 0"),
        (ind.Stochastic(slow_d=-1), "slow_d is -1"),
        (ind.Macd(fast=26, slow=12), "fast must be"),
    ],
)
def test_impossible_periods_are_refused(indicator, message):
    with pytest.raises(ValueError, match=message):
        indicator.validate()
