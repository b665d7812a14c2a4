"""Reductions over short leading axes, fast on every device.

XLA's CPU backend reduces a non-minor axis one element at a time. Combining whole rows by pairs leaves
plain operations along the long last axis (the markets), which vectorise and fuse. Pairs also round
less than a running sum.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")
Operation = Callable[[jax.Array, jax.Array], jax.Array]

#: Longer axes are halved as arrays first, which keeps the program short.
MAX_UNROLLED = 32
#: Blocks of rows that one loop may combine; with more the CPU compiler gives up on vector instructions.
MAX_PARTS = 16


def fold(operation: Operation, array: jax.Array, axis: int = 0) -> jax.Array:
    """Combine the rows along `axis` by pairs with an associative and commutative operation.

    >>> int(fold(jnp.maximum, jnp.array([3, 7, 5])))
    7
    """
    array = jnp.moveaxis(array, axis, 0)
    while array.shape[0] > MAX_UNROLLED:
        half = array.shape[0] // 2
        array = jnp.concatenate([operation(array[:half], array[half : 2 * half]), array[2 * half :]])
    return _pairwise(operation, [array[i] for i in range(array.shape[0])])


def total(array: jax.Array, axis: int = 0) -> jax.Array:
    """Sum along `axis`, in the array's own type."""
    return fold(jnp.add, array, axis)


def mean(array: jax.Array, axis: int = 0) -> jax.Array:
    """Mean along `axis`."""
    return total(array, axis) / array.shape[axis]


def map_reduce(operation: Operation, function: Callable[[T], jax.Array], rows: T) -> jax.Array:
    """`fold(operation, function(rows))` for a function that works row by row, whose results are not kept in memory.

    Args:
        operation: associative and commutative.
        function: of some of the rows, a result for each.
        rows: arrays `[R, ...]` in any tree.

    >>> int(map_reduce(jnp.add, lambda row: row["x"] * row["y"], {"x": jnp.arange(40), "y": jnp.arange(40)}))
    20540
    """
    size, reach = jax.tree.leaves(rows)[0].shape[0], MAX_UNROLLED * MAX_PARTS
    starts = range(0, size, reach)
    return _pairwise(operation, [_reduce_some(operation, function, rows, i, min(i + reach, size)) for i in starts])


def _reduce_some(operation: Operation, function: Callable[[T], jax.Array], rows: T, start: int, stop: int) -> jax.Array:
    """`map_reduce` of the rows from `start` to `stop`, in one loop over blocks of them."""
    ends = [(i, min(i + MAX_UNROLLED, stop)) for i in range(start, stop, MAX_UNROLLED)]
    *parts, tail = (function(jax.tree.map(lambda array, i=i, j=j: array[i:j], rows)) for i, j in ends)
    if parts:
        head = _pairwise(operation, parts)
        tail = jnp.concatenate([operation(head[: len(tail)], tail), head[len(tail) :]])
    return fold(operation, tail)


def _pairwise(operation: Operation, arrays: list[jax.Array]) -> jax.Array:
    while len(arrays) > 1:
        pairs = zip(arrays[::2], arrays[1::2], strict=False)
        arrays = [operation(a, b) for a, b in pairs] + arrays[len(arrays) // 2 * 2 :]
    return arrays[0]
