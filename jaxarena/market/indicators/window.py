"""The recent bars of a market, kept once and shared by every indicator and observation."""

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_shape
from jaxarena.core.reduce import fold
from jaxarena.core.tree import Record
from jaxarena.core.types import Bar

#: Bars over which `Window.typical_move` measures how far prices move.
MOVE_BARS = 20

_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME = range(5)


class Window(Record):
    """The last `W` traded bars of one market, oldest first, newest last.

    Rows older than the first bar repeat it with volume 0, so that nothing moves before it.
    """

    bars: jax.Array  # [W, 5, A] float32: open, high, low, close in ticks, volume in lots
    count: jax.Array  # [] int32 bars ever seen

    @staticmethod
    def start(bar: Bar, length: int) -> "Window":
        """A window of `length` rows that has seen one bar."""
        row = _row(bar)
        before = row.at[:, _VOLUME].set(0.0)
        return Window(
            bars=jnp.concatenate([jnp.repeat(before, length - 1, axis=0), row]), count=jnp.ones((), jnp.int32)
        )

    @staticmethod
    def at(history: Bar, index: jax.Array, length: int) -> "Window":
        """The window right after bar `index` of a history.

        Args:
            history: every bar, leaves `[T, A]`.
            index: [] int32 in `0 .. T-1`.
            length: rows of the window.
        """
        rows = index - jnp.arange(length - 1, -1, -1, dtype=jnp.int32)
        picked = jax.tree.map(lambda leaf: leaf[jnp.maximum(rows, 0)], history)
        seen = (rows >= 0).astype(jnp.float32)[:, None]
        return Window(
            bars=_stack(picked.replace(volume=picked.volume * seen), axis=1), count=jnp.asarray(index, jnp.int32) + 1
        )

    def push(self, bar: Bar) -> "Window":
        """Forget the oldest bar and append `bar`."""
        expect_shape("bar.close", bar.close, self.bars.shape[2:])
        return Window(bars=jnp.concatenate([self.bars[1:], _row(bar)]), count=self.count + 1)

    @property
    def open(self) -> jax.Array:
        """[W, A] float32 ticks."""
        return self.bars[:, _OPEN]

    @property
    def high(self) -> jax.Array:
        """[W, A] float32 ticks."""
        return self.bars[:, _HIGH]

    @property
    def low(self) -> jax.Array:
        """[W, A] float32 ticks."""
        return self.bars[:, _LOW]

    @property
    def close(self) -> jax.Array:
        """[W, A] float32 ticks."""
        return self.bars[:, _CLOSE]

    @property
    def volume(self) -> jax.Array:
        """[W, A] float32 lots."""
        return self.bars[:, _VOLUME]

    def centred(self, prices: jax.Array, rows: int) -> jax.Array:
        """The last `rows` of `prices` minus the newest close: [rows, A] ticks, exact up to a factor of 2."""
        return newest(prices, rows) - self.close[-1:]

    def changes(self, rows: int) -> jax.Array:
        """The last `rows` changes of the close: [rows, A] ticks."""
        closes = newest(self.close, rows + 1)
        return closes[1:] - closes[:-1]

    def typical_move(self) -> jax.Array:
        """Mean absolute change of the close over the last `MOVE_BARS` bars, at least one tick: [A] ticks.

        Features that measure a distance in prices divide by it, which makes them free of scale.
        """
        seen = jnp.clip(self.count - 1, 1, MOVE_BARS).astype(jnp.float32)
        return jnp.maximum(fold(jnp.add, jnp.abs(self.changes(MOVE_BARS))) / seen, 1.0)


def _row(bar: Bar) -> jax.Array:
    """[1, 5, A]."""
    return _stack(bar, axis=0)[None]


def _stack(bar: Bar, axis: int) -> jax.Array:
    columns = (bar.open, bar.high, bar.low, bar.close, bar.volume)
    return jnp.stack([column.astype(jnp.float32) for column in columns], axis=axis)


def newest(column: jax.Array, rows: int) -> jax.Array:
    """The last `rows` of a window's column: [rows, A].

    Raises:
        ValueError: the window is shorter.
    """
    if column.shape[0] < rows:
        raise ValueError(f"window: {rows} rows are needed, got {column.shape[0]}; see window_length(indicators)")
    return column[-rows:]
