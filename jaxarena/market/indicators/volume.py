# ruff: noqa: D102 - members share the docstrings of `Indicator`
"""Indicators that weigh prices by what was traded."""

import jax
import jax.numpy as jnp

from jaxarena.core.reduce import fold
from jaxarena.core.tree import static
from jaxarena.market.indicators.base import Indicator, Rolling
from jaxarena.market.indicators.window import Window, newest


class Obv(Indicator):
    """On-balance volume, in lots: the sum of volume, counted + when the close rose and − when it fell.

    Starts with the volume of the first bar. The sum grows without bound, so the carry, [2, A], is a
    float32 sum and the rounding error that it has lost so far; the value is right to one rounding.
    Feature: its change over the last `period` bars divided by `sqrt(sum of squared volumes)`, which has
    variance 1 when signs are fair coins. Source: Granville (1963).
    """

    outputs = ("obv",)

    period: int = static(default=20)

    @property
    def lookback(self) -> int:
        return self.period + 1

    @property
    def warmup(self) -> int:
        return 1

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros((2, n_assets), jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        sign = jnp.where(window.count == 1, 1.0, jnp.sign(window.changes(1)[0]))
        total, lost = _two_sum(carry[0], sign * window.volume[-1] + carry[1])
        return jnp.stack([total, lost]), (total + lost)[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        volume = newest(window.volume, self.period)
        flow = fold(jnp.add, jnp.sign(window.changes(self.period)) * volume)
        spread = jnp.sqrt(fold(jnp.add, volume * volume))
        return (flow / jnp.where(spread > 0, spread, 1.0))[None]


class VwapDistance(Rolling):
    """How far the close lies above the volume-weighted price of the last `period` bars: `close / vwap - 1`.

    `vwap = sum(volume * typical) / sum(volume)` with `typical = (high + low + close) / 3`; the distance
    is 0 when nothing traded. Feature: the distance in typical moves times √period.
    """

    outputs = ("vwap_distance",)

    def _values(self, window: Window) -> jax.Array:
        prices = (window.high, window.low, window.close)
        typical = sum(window.centred(price, self.period) for price in prices) / 3.0
        volume = newest(window.volume, self.period)
        traded = fold(jnp.add, volume)
        above = -fold(jnp.add, volume * typical) / jnp.where(traded > 0, traded, 1.0)
        return (above / jnp.maximum(window.close[-1] - above, 1.0))[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        above = window.close[-1:] * values / (1.0 + values)
        return above / (window.typical_move() * self.period**0.5)[None]


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a + b` rounded to float32, and what rounding lost (Knuth's branch-free sum)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)
