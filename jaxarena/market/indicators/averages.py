# ruff: noqa: D102 - members share the docstrings of `Indicator`
"""Averages of the close, and distances from them."""

import jax
import jax.numpy as jnp

from jaxarena.core.reduce import mean
from jaxarena.core.tree import static
from jaxarena.market.indicators.arithmetic import above, moments, wilder_rate
from jaxarena.market.indicators.base import Indicator, Rolling
from jaxarena.market.indicators.window import MOVE_BARS, Window


class Sma(Rolling):
    """The average close of the last `period` bars, in ticks.

    Feature: how far the close lies above it, in typical moves times √period.
    """

    outputs = ("sma",)

    def _values(self, window: Window) -> jax.Array:
        return (window.close[-1] + mean(window.centred(window.close, self.period)))[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return above(values, window, self.period)


class Ema(Indicator):
    """The exponential average of closes, in ticks: `ema += 2 / (period + 1) * (close - ema)`.

    Seeded by the simple average of the first `period` closes. The carry is `ema - close`, [A], which
    stays accurate where prices are large. Feature: as for `Sma`.
    """

    outputs = ("ema",)

    period: int = static(default=20)

    @property
    def lookback(self) -> int:
        return MOVE_BARS + 1

    @property
    def warmup(self) -> int:
        return self.period

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros(n_assets, jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        gap = _ema_gap(carry, window, window.count, self.period)
        return gap, (window.close[-1] + gap)[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return above(values, window, self.period)


class Macd(Indicator):
    """Moving average convergence/divergence: a fast minus a slow exponential average, in ticks.

    `signal` is the exponential average of `macd`, `histogram = macd - signal`. Both averages start at
    the same bar, as in TA-Lib: the fast one is seeded by the last `fast` of the first `slow` closes, and
    the signal by the simple average of the first `signal` differences. The carry, [3, A], holds both
    averages minus the close, and the signal. Feature: values in typical moves times √(slow − fast).
    Source: Appel (1979).
    """

    outputs = ("macd", "signal", "histogram")

    fast: int = static(default=12)
    slow: int = static(default=26)
    signal: int = static(default=9)

    @property
    def lookback(self) -> int:
        return MOVE_BARS + 1

    @property
    def warmup(self) -> int:
        return self.slow + self.signal - 1

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros((3, n_assets), jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        fast = _ema_gap(carry[0], window, window.count - (self.slow - self.fast), self.fast)
        slow = _ema_gap(carry[1], window, window.count, self.slow)
        macd = fast - slow
        signal = carry[2] + _ema_rate(window.count - (self.slow - 1), self.signal) * (macd - carry[2])
        return jnp.stack([fast, slow, signal]), jnp.stack([macd, signal, macd - signal])

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return values / (window.typical_move() * (self.slow - self.fast) ** 0.5)[None]

    def validate(self, where: str = "indicator") -> None:
        super().validate(where)
        if self.fast >= self.slow:
            raise ValueError(f"{where}: fast is {self.fast} and slow is {self.slow}; fast must be the shorter one")


class Bollinger(Rolling):
    """Bollinger bands, in ticks: the average close ± `deviations` population standard deviations.

    Feature: half of how far the close lies above each band, in typical moves times √period; so the
    distance between the features also tells how wide the bands are. Source: Bollinger (2001).
    """

    outputs = ("upper", "middle", "lower")

    deviations: float = 2.0

    def _values(self, window: Window) -> jax.Array:
        average, deviation = moments(window, self.period)
        middle = window.close[-1] + average
        width = self.deviations * deviation
        return jnp.stack([middle + width, middle, middle - width])

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return 0.5 * above(values, window, self.period)


class ZScore(Rolling):
    """The close measured in population standard deviations from the average of the last `period` closes.

    0 when the window is flat. Feature: the value itself.
    """

    outputs = ("z_score",)

    @property
    def lookback(self) -> int:
        return self.period

    def _values(self, window: Window) -> jax.Array:
        average, deviation = moments(window, self.period)
        return jnp.where(deviation > 0, -average / jnp.where(deviation > 0, deviation, 1.0), 0.0)[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return values


def _ema_rate(seen: jax.Array, period: int) -> jax.Array:
    """Weight of the newest of `seen` inputs: `2 / (period + 1)` once the simple average has seeded the recursion."""
    return jnp.where(seen <= period, wilder_rate(seen, period), 2.0 / (period + 1))


def _ema_gap(gap: jax.Array, window: Window, seen: jax.Array, period: int) -> jax.Array:
    """`ema - close` after the newest close, from its last value: [A] ticks."""
    return (1.0 - _ema_rate(seen, period)) * (gap - window.changes(1)[0])
