"""Reductions over short leading axes, fast on every device.

XLA's CPU backend reduces a non-minor axis one element at a time. Combining whole rows by pairs leaves
plain operations along the long last axis (the markets), which vectorise and fuse. Pairs also round
less than a running sum.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

#: Longer axes are halved as arrays first, which keeps the program short.
MAX_UNROLLED = 32
#: Blocks of rows that one loop may combine; with more the CPU compiler gives up on vector instructions.
MAX_PARTS = 16


def fold(operation: Callable[[jax.Array, jax.Array], jax.Array], array: jax.Array, axis: int = 0) -> jax.Array:
    """Combine the rows along `axis` by pairs with an associative and commutative operation.

    >>> int(fold(jnp.maximum, jnp.array([3, 7, 5])))
    7
    """
    array = jnp.moveaxis(array, axis, 0)
    while array.shape[0] > MAX_UNROLLED:
        half = array.shape[0] // 2
        array = jnp.concatenate([operation(array[:half], array[half : 2 * half]), array[2 * half :]])
    rows = [array[i] for i in range(array.shape[0])]
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2], strict=False)
        rows = [operation(a, b) for a, b in pairs] + rows[len(rows) // 2 * 2 :]
    return rows[0]


def total(array: jax.Array, axis: int = 0) -> jax.Array:
    """Sum along `axis`, in the array's own type."""
    return fold(jnp.add, array, axis)


def mean(array: jax.Array, axis: int = 0) -> jax.Array:
    """Mean along `axis`."""
    return total(array, axis) / array.shape[axis]


def map_reduce(
    operation: Callable[[jax.Array, jax.Array], jax.Array], function: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    """`fold(operation, function(*arrays))` for a function of rows, whose results are never kept in memory.

    >>> int(map_reduce(jnp.add, lambda x, y: x * y, jnp.arange(40), jnp.arange(40)))
    20540
    """
    size = arrays[0].shape[0]
    block = max(MAX_UNROLLED, -(-size // MAX_PARTS))
    parts = [function(*(array[i : i + block] for array in arrays)) for i in range(0, size, block)]
    *parts, tail = parts
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [operation(a, b) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
    if parts:
        tail = jnp.concatenate([operation(parts[0][: len(tail)], tail), parts[0][len(tail) :]])
    return fold(operation, tail)
