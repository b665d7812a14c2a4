# ruff: noqa: D102 - members share the docstrings of `Indicator`
"""Indicators that move between 0 and 100."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxarena.core.reduce import fold, mean
from jaxarena.core.tree import static
from jaxarena.market.indicators.arithmetic import percent, wilder_rate
from jaxarena.market.indicators.base import Indicator
from jaxarena.market.indicators.window import Window, newest


class Rsi(Indicator):
    """The relative strength index, 0 to 100: `100 * gain / (gain + loss)`.

    `gain` and `loss` are Wilder averages of upward and downward changes of the close, seeded by the
    simple average of the first `period` changes; they are the carry, [2, A]. A price that never moved
    reads 50, where TA-Lib writes 0, which would look like the steepest fall. Feature: `(rsi - 50) / 25`.
    Source: Wilder (1978).
    """

    outputs = ("rsi",)

    period: int = static(default=14)

    @property
    def lookback(self) -> int:
        return 2

    @property
    def warmup(self) -> int:
        return self.period + 1

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros((2, n_assets), jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        change = window.changes(1)[0]
        moves = jnp.stack([jnp.maximum(change, 0.0), jnp.maximum(-change, 0.0)])
        carry = carry + wilder_rate(window.count - 1, self.period) * (moves - carry)
        return carry, percent(carry[0], carry[0] + carry[1])[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return (values - 50.0) / 25.0


class Stochastic(Indicator):
    """The slow stochastic oscillator, 0 to 100: where the close lies between lowest low and highest high.

    `%K` compares with the extremes of `fast_k` bars; `slow_k` averages it over `slow_k` bars and `slow_d`
    averages that over `slow_d` bars. A range of zero reads 50, where TA-Lib writes 0.
    Feature: `(value - 50) / 25`. Source: Lane (1984).
    """

    outputs = ("slow_k", "slow_d")

    fast_k: int = static(default=5)
    slow_k: int = static(default=3)
    slow_d: int = static(default=3)

    @property
    def lookback(self) -> int:
        return self.fast_k + self.slow_k + self.slow_d - 2

    @property
    def warmup(self) -> int:
        return self.lookback

    def update(self, carry: Any, window: Window) -> tuple[Any, jax.Array]:
        points = self.slow_k + self.slow_d - 1
        low, high, close = (newest(prices, self.lookback) for prices in (window.low, window.high, window.close))
        lowest = jnp.stack([fold(jnp.minimum, low[i : i + self.fast_k]) for i in range(points)])
        highest = jnp.stack([fold(jnp.maximum, high[i : i + self.fast_k]) for i in range(points)])
        share = percent(close[-points:] - lowest, highest - lowest)
        slow_k = jnp.stack([mean(share[i : i + self.slow_k]) for i in range(self.slow_d)])
        return carry, jnp.stack([slow_k[-1], mean(slow_k)])

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return (values - 50.0) / 25.0
