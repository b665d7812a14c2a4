"""Indicators agree with TA-Lib and float64 references, and every registered member takes one battery."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import talib
import yaml

from jaxarena.core.types import Bar
from jaxarena.market import indicators as ind
from tests.reference import indicators as reference

MEMBERS = sorted(ind.Indicator.members)
N_ASSETS = 2


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def make_bars(kind, length, seed=0):
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


def constant_bars(length, ticks=500, volume=0.0):
    price = jnp.full((length, N_ASSETS), ticks, jnp.int32)
    return Bar(price, price, price, price, jnp.full((length, N_ASSETS), volume, jnp.float32))


def row(bars, t):
    return jax.tree.map(lambda leaf: leaf[t], bars)


@functools.partial(jax.jit, static_argnums=2)
def follow(indicator, bars, length):
    """Values and features after each bar, each [T, F, A]."""

    def outcome(carry, window):
        carry, values = indicator.update(carry, window)
        return carry, (values, indicator.features(values, window))

    def step(state, bar):
        window = state[0].push(bar)
        carry, out = outcome(state[1], window)
        return (window, carry), out

    window = ind.Window.start(row(bars, 0), length)
    carry, first = outcome(indicator.init(bars.close.shape[1]), window)
    _, rest = jax.lax.scan(step, (window, carry), jax.tree.map(lambda leaf: leaf[1:], bars))
    return jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), first, rest)


def columns(bars, asset):
    return [np.asarray(leaf[:, asset], np.float64) for leaf in (bars.open, bars.high, bars.low, bars.close, bars.volume)]


# Each oracle maps open, high, low, close, volume [T] to the series of each output. Tolerances are absolute, in
# units of: the close ("price"), the mean absolute close change ("move"), or the values' own size ("value").
ORACLES = [
    (ind.Sma(period=20), lambda o, h, l, c, v: [talib.SMA(c, 20)], 1e-6, "price"),
    (ind.Sma(period=3), lambda o, h, l, c, v: [talib.SMA(c, 3)], 1e-6, "price"),
    (ind.Ema(period=20), lambda o, h, l, c, v: [talib.EMA(c, 20)], 1e-6, "price"),
    (ind.Ema(period=1), lambda o, h, l, c, v: [c], 1e-6, "price"),
    (ind.Rsi(), lambda o, h, l, c, v: [talib.RSI(c, 14)], 1e-3, "value"),
    (ind.Rsi(period=2), lambda o, h, l, c, v: [talib.RSI(c, 2)], 1e-3, "value"),
    (ind.Macd(), lambda o, h, l, c, v: talib.MACD(c, 12, 26, 9), 1e-4, "move"),
    (ind.Macd(fast=3, slow=17, signal=5), lambda o, h, l, c, v: talib.MACD(c, 3, 17, 5), 1e-4, "move"),
    (ind.Bollinger(), lambda o, h, l, c, v: talib.BBANDS(c, 20, 2.0, 2.0), 1e-6, "price"),
    (ind.Bollinger(period=5, deviations=1.5), lambda o, h, l, c, v: talib.BBANDS(c, 5, 1.5, 1.5), 1e-6, "price"),
    (ind.Atr(), lambda o, h, l, c, v: [talib.ATR(h, l, c, 14)], 1e-4, "move"),
    (ind.Atr(period=3), lambda o, h, l, c, v: [talib.ATR(h, l, c, 3)], 1e-4, "move"),
    (ind.Stochastic(), lambda o, h, l, c, v: talib.STOCH(h, l, c, 5, 3, 0, 3, 0), 1e-3, "value"),
    (ind.Stochastic(fast_k=14, slow_k=1, slow_d=4), lambda o, h, l, c, v: talib.STOCH(h, l, c, 14, 1, 0, 4, 0), 1e-3, "value"),
    (ind.Obv(), lambda o, h, l, c, v: [talib.OBV(c, v)], 2e-7, "value"),
    (ind.RealizedVolatility(), lambda o, h, l, c, v: [reference.realized_volatility(c, 20)], 1e-6, "value"),
    (ind.VwapDistance(), lambda o, h, l, c, v: [reference.vwap_distance(h, l, c, v, 20)], 1e-6, "value"),
    (ind.VwapDistance(period=2), lambda o, h, l, c, v: [reference.vwap_distance(h, l, c, v, 2)], 1e-6, "value"),
    (ind.ZScore(), lambda o, h, l, c, v: [reference.z_score(c, 20)], 1e-5, "value"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["walk", "large", "clustered"])
@pytest.mark.parametrize(("indicator", "oracle", "tolerance", "unit"), ORACLES, ids=lambda x: getattr(x, "kind", str)())
def test_values_agree_with_the_oracle_from_warmup_on(indicator, oracle, tolerance, unit, kind):
    bars = make_bars(kind, 1_500)
    values, _ = follow(indicator, bars, ind.window_length((indicator,)))
    for asset in range(N_ASSETS):
        series = columns(bars, asset)
        close = series[3]
        expected = np.stack(oracle(*series))
        start = indicator.warmup - 1
        assert np.isfinite(expected[:, start:]).all()
        assert start == 0 or np.isnan(expected[:, start - 1]).all(), "warmup is later than the oracle's first value"
        scale = {"price": close.min(), "move": np.abs(np.diff(close)).mean(), "value": np.nanstd(expected)}[unit]
        np.testing.assert_allclose(
            np.asarray(values[start:, :, asset]).T, expected[:, start:], rtol=0, atol=tolerance * scale
        )


def test_every_member_has_an_oracle():
    assert {type(indicator) for indicator, *_ in ORACLES} >= {
        member for member in ind.Indicator.members.values() if member.__module__.startswith("jaxarena.")
    }
