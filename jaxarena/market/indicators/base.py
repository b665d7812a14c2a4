# ruff: noqa: D102 - members share the docstrings of `Indicator`
"""What every indicator is, and how many of them follow a market together."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.component import Component
from jaxarena.core.tree import static
from jaxarena.core.types import Bar
from jaxarena.market.indicators.window import MOVE_BARS, Window

#: Features are clipped to ± this.
FEATURE_LIMIT = 3.0


class Indicator(Component, family="indicator"):
    """A function of the bars so far, updated once per bar; all periods are counted in bars.

    A member states `outputs`, `lookback`, `warmup`, `update` and `_scaled`, and `init` when it carries
    anything. Values are in TA-Lib's units and agree with it from bar `warmup` on, seeds included.
    """

    #: Names of the `F` rows of values and features.
    outputs: ClassVar[tuple[str, ...]] = ()

    @property
    @abc.abstractmethod
    def lookback(self) -> int:
        """Rows of the window that are read."""

    @property
    @abc.abstractmethod
    def warmup(self) -> int:
        """Bars that must have been seen before values mean what they say: TA-Lib's lookback + 1."""

    def init(self, n_assets: int) -> Any:
        """The carry before the first bar, arrays of trailing shape `[A]`; `()` for windowed indicators."""
        return ()

    @abc.abstractmethod
    def update(self, carry: Any, window: Window) -> tuple[Any, jax.Array]:
        """Take in the newest bar of `window`.

        Args:
            carry: what `init` or the previous call returned.
            window: at least `lookback` rows, the new bar pushed.

        Returns:
            The next carry and the values, [F, A] float32; finite but arbitrary before `warmup`.
        """

    def features(self, values: jax.Array, window: Window) -> jax.Array:
        """The values free of scale, in `[-3, 3]`, for observations: [F, A] float32; 0 before `warmup`.

        Args:
            values: what `update` returned, [F, A].
            window: the window that it was given.
        """
        scaled = jnp.clip(self._scaled(values, window), -FEATURE_LIMIT, FEATURE_LIMIT)
        return jnp.where(window.count >= self.warmup, scaled, jnp.zeros_like(scaled))

    @abc.abstractmethod
    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        """Features before clipping and masking."""

    def validate(self, where: str = "indicator") -> None:
        """Check the periods, on the host.

        Raises:
            ValueError: a period is below 1.
        """
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{where}: {name} is {value}, allowed are whole numbers of bars from 1 on")


class Rolling(Indicator):
    """An indicator of the last `period` bars alone."""

    period: int = static(default=20)

    @property
    def lookback(self) -> int:
        return max(self.period, MOVE_BARS + 1)

    @property
    def warmup(self) -> int:
        return self.period

    def update(self, carry: Any, window: Window) -> tuple[Any, jax.Array]:
        return carry, self._values(window)

    @abc.abstractmethod
    def _values(self, window: Window) -> jax.Array:
        """[F, A]."""


def window_length(indicators: tuple[Indicator, ...], minimum: int = 2) -> int:
    """Rows of the smallest window that serves all `indicators`.

    >>> from jaxarena.market.indicators import Rsi, Sma
    >>> window_length((Rsi(), Sma(period=50)))
    50
    """
    return max([minimum, *(indicator.lookback for indicator in indicators)])


def update_all(
    indicators: tuple[Indicator, ...], carries: tuple[Any, ...], window: Window
) -> tuple[tuple[Any, ...], tuple[jax.Array, ...]]:
    """Update several indicators with the newest bar: their next carries and values, each a tuple."""
    pairs = [indicator.update(carry, window) for indicator, carry in zip(indicators, carries, strict=True)]
    return tuple(carry for carry, _ in pairs), tuple(values for _, values in pairs)


def scan_history(indicators: tuple[Indicator, ...], bars: Bar, length: int) -> tuple[Any, ...]:
    """The carries after each bar of a history, so that a replay can start anywhere without a loop.

    Args:
        indicators: `F` of them, in the order of the result.
        bars: the history, leaves `[T, A]`.
        length: rows of the window, at least `window_length(indicators)`.

    Returns:
        One carry per indicator with a leading axis `T`; entry `t` has seen bars `0 .. t`.
        `Window.at(bars, t, length)` is the window that belongs to it.
    """
    first = Window.start(jax.tree.map(lambda leaf: leaf[0], bars), length)
    empty = tuple(indicator.init(bars.close.shape[1]) for indicator in indicators)
    carries, _ = update_all(indicators, empty, first)

    def step(state: tuple[Window, tuple[Any, ...]], bar: Bar) -> tuple[Any, tuple[Any, ...]]:
        window = state[0].push(bar)
        carries, _ = update_all(indicators, state[1], window)
        return (window, carries), carries

    _, rest = jax.lax.scan(step, (first, carries), jax.tree.map(lambda leaf: leaf[1:], bars))
    return jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), carries, rest)
