"""Replay gives the recorded rows, from starts that leave room on both sides, and knows nothing of the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxarena.agents import Hold
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import BarReturns, Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.history import HistoricalReplay

LENGTH, A, WINDOW, HORIZON = 120, 2, 20, 30


def make_prices(seed=0, length=LENGTH, level=(20.0, 300.0)):
    rng = np.random.default_rng(seed)
    close = np.array(level) * np.exp(np.cumsum(0.02 * rng.normal(size=(length, A)), axis=0))
    opened = close * np.exp(0.01 * rng.normal(size=close.shape))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    return opened, high, low, close, np.floor(rng.lognormal(12, 1, close.shape))


PRICES = make_prices()
REPLAY = HistoricalReplay(liquidity_window=WINDOW).with_bars(("X", "Y"), *PRICES)


@jax.jit
def follow(process, seed):
    """Starts of 4,000 markets, and the bars that the first 50 see."""
    keys = jax.random.split(jax.random.key(seed), 4000)
    states, first = jax.vmap(lambda key: process.init(key, HORIZON))(keys)
    few = jax.tree.map(lambda leaf: leaf[:50], states)

    def step(state, _):
        return jax.vmap(lambda s: process.step(jax.random.key(0), s))(state)

    return states, first, jax.vmap(process.liquidity)(states), jax.lax.scan(step, few, None, length=HORIZON)


def test_rows_equal_the_data():
    states, first, _, (_, bars) = follow(REPLAY, 0)
    start = np.asarray(states.start)
    ticks = [np.round(price * REPLAY.ticks_per_unit).astype(int) for price in PRICES[:4]]
    for name, recorded in zip(("open", "high", "low", "close"), ticks, strict=True):
        np.testing.assert_array_equal(getattr(first, name), recorded[start])
        for t in range(HORIZON):
            np.testing.assert_array_equal(getattr(bars, name)[t], recorded[start[:50] + t + 1])
    np.testing.assert_array_equal(first.volume, PRICES[4][start].astype(np.float32))
    rows = REPLAY.warm_bars()
    np.testing.assert_array_equal(rows.close, ticks[3])
    np.testing.assert_array_equal(REPLAY.bar_index(states), start)


def test_starts_are_uniform_and_leave_room_on_both_sides():
    states, *_ = follow(REPLAY, 1)
    start = np.asarray(states.start)
    assert start.min() == WINDOW
    assert start.max() == LENGTH - 1 - HORIZON
    counts = np.bincount(start - WINDOW)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_episode_that_just_fits_has_one_start():
    process = REPLAY.replace(liquidity_window=LENGTH - 1 - HORIZON)
    process.validate(HORIZON, WINDOW)
    states, *_ = follow(process, 0)
    assert set(np.asarray(states.start)) == {LENGTH - 1 - HORIZON}
    with pytest.raises(ValueError, match="shorten the episode or widen the date range"):
        process.validate(HORIZON + 1, WINDOW)


@pytest.mark.parametrize("level", [(20.0, 300.0), (0.013, 5.0), (1.0, 1.0), (9_999.0, 10_001.0)])
def test_the_default_tick_is_at_most_a_ten_thousandth_of_the_lowest_price(level):
    prices = make_prices(level=level)
    process = HistoricalReplay().with_bars(("X", "Y"), *prices)
    assert process.tick_size <= 1e-4 * prices[2].min()
    assert round(1.0 / process.tick_size) == process.ticks_per_unit
    ticks = np.asarray(process.recording.ticks[:, 3])
    np.testing.assert_allclose(ticks * process.tick_size, prices[3], atol=0.51 * process.tick_size)


def test_high_prices_keep_a_tick_that_is_one_over_a_whole_number():
    """A share can cost 600,000 and a coin 100,000."""
    process = HistoricalReplay().with_bars(("X", "Y"), *make_prices(level=(600_000.0, 150_000.0)))
    assert process.ticks_per_unit >= 1
    assert process.tick_size <= 1e-4 * 100_000


def test_a_tick_of_ones_own_and_prices_that_do_not_fit():
    assert HistoricalReplay(ticks_per_unit=100).with_bars(("X", "Y"), *PRICES).tick_size == 0.01
    with pytest.raises(ValueError, match=r"process\.ticks_per_unit: 1000000000 puts prices"):
        HistoricalReplay(ticks_per_unit=10**9).with_bars(("X", "Y"), *PRICES)
    with pytest.raises(ValueError, match="choose another value"):
        HistoricalReplay().with_bars(("X", "Y"), *make_prices(level=(0.0001, 10**6)))


def test_liquidity_is_that_of_the_bars_up_to_the_start():
    states, _, liquidity, _ = follow(REPLAY, 2)
    for e in range(40):
        s = int(states.start[e])
        rows = slice(s - WINDOW + 1, s + 1)
        np.testing.assert_allclose(liquidity.depth_lots[e], PRICES[4][rows].mean(0), rtol=1e-5)
        returns = np.diff(np.log(PRICES[3][s - WINDOW : s + 1]), axis=0)
        np.testing.assert_allclose(liquidity.volatility[e], np.sqrt((returns**2).mean(0)), rtol=1e-5)


def test_liquidity_does_not_depend_on_the_future():
    """Changing every bar after row 60 changes nothing for episodes that start at 60 or before."""
    changed = [price.copy() for price in PRICES]
    for price in changed:
        price[61:] *= 3.0
    other = HistoricalReplay(liquidity_window=WINDOW, ticks_per_unit=REPLAY.ticks_per_unit).with_bars(
        ("X", "Y"), *changed
    )
    states, _, mine, _ = follow(REPLAY, 3)
    _, _, theirs, _ = follow(other, 3)
    early = np.asarray(states.start) <= 60
    assert early.any()
    assert not early.all()
    np.testing.assert_array_equal(mine.depth_lots[early], theirs.depth_lots[early])
    np.testing.assert_array_equal(mine.volatility[early], theirs.volatility[early])
    assert (np.asarray(mine.depth_lots) != np.asarray(theirs.depth_lots))[~early].any()


def test_liquidity_is_constant_within_an_episode():
    states, _, before, (after, _) = follow(REPLAY, 4)
    np.testing.assert_array_equal(jax.vmap(REPLAY.liquidity)(after).depth_lots, before.depth_lots[:50])
    np.testing.assert_array_equal(after.index, states.index[:50] + HORIZON)


def test_history_is_shared_by_all_markets():
    """`params_axes` maps every number over a population but never the recording, which is not copied."""
    role = Role(name="trader", observations=(BarReturns(length=4), Portfolio()))
    scripted = Role(name="idle", strategy=Hold())
    env, params = MarketEnv.build(
        MarketParams(process=REPLAY, roles=(role, scripted), indicators=(), episode_length=HORIZON)
    )
    axes = env.params_axes(params)
    assert jax.tree.leaves(axes.process.recording) == []
    assert jax.tree.leaves(axes.warm_carries) == []
    population = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
    population = population.replace(
        process=population.process.replace(recording=params.process.recording), warm_carries=params.warm_carries
    )
    keys = jax.random.split(jax.random.key(0), 3)
    reset = jax.vmap(env.reset, in_axes=(0, axes))
    obs, state = jax.jit(reset)(keys, population)
    assert obs["trader"].shape[0] == 3
    closes = np.asarray(REPLAY.recording.ticks[:, 3])
    np.testing.assert_array_equal(state.close, closes[np.asarray(state.process.index)])
    copied = [aval for aval in _shapes(jax.make_jaxpr(reset)(keys, population)) if aval[:2] == (3, LENGTH)]
    assert copied == []


def test_too_little_data_is_named():
    with pytest.raises(ValueError, match=r"market\.episode_length: 200 steps .* need 221 bars, the data has 120"):
        REPLAY.validate(200, 1)
    with pytest.raises(ValueError, match=r"process\.liquidity_window: got 20, but observations look back 21 bars"):
        REPLAY.validate(HORIZON, 21)
    with pytest.raises(ValueError, match="has no bars"):
        HistoricalReplay().validate(10, 1)


def _shapes(jaxpr):
    """Shapes of every value in a program, inner programs included."""
    for equation in jaxpr.jaxpr.eqns if hasattr(jaxpr, "jaxpr") else jaxpr.eqns:
        yield from (tuple(var.aval.shape) for var in equation.outvars)
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _shapes(value)
