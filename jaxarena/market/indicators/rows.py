"""Reading and reducing the rows of a window, fast on every device."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

#: More rows than this are halved as arrays first, which keeps the program short.
MAX_UNROLLED = 32


def newest(column: jax.Array, rows: int) -> jax.Array:
    """The last `rows` of a window's column: [rows, A].

    Raises:
        ValueError: the window is shorter.
    """
    if column.shape[0] < rows:
        raise ValueError(f"window: {rows} rows are needed, got {column.shape[0]}; see window_length(indicators)")
    return column[-rows:]


def fold(operation: Callable[[jax.Array, jax.Array], jax.Array], array: jax.Array) -> jax.Array:
    """Combine the rows of `[n, ...]` by pairs with an associative operation: `[...]`.

    XLA's CPU reduction over a leading axis takes one element at a time; whole rows vectorise along the
    market axis and fuse into one loop, up to ten times faster. Pairs also round less than a running sum.
    """
    while array.shape[0] > MAX_UNROLLED:
        half = array.shape[0] // 2
        array = jnp.concatenate([operation(array[:half], array[half : 2 * half]), array[2 * half :]])
    rows = [array[i] for i in range(array.shape[0])]
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2], strict=False)
        rows = [operation(a, b) for a, b in pairs] + rows[len(rows) // 2 * 2 :]
    return rows[0]


def mean(array: jax.Array) -> jax.Array:
    """Mean over the rows of `[n, ...]`: `[...]`."""
    return fold(jnp.add, array) / array.shape[0]
