"""Frozen dataclasses that are JAX pytrees, and the few tree operations every layer shares.

Belongs here: what any pytree needs. Does not belong here: anything that knows about markets.
"""

import dataclasses
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")

#: Longest axis that `tree_sum` unrolls.
MAX_UNROLLED = 32


def static(*, default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A field that decides shapes or code paths: part of the tree's structure, never traced.

    Its value must be hashable; changing it compiles again.
    """
    return dataclasses.field(default=default, metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
class Record:
    """Base class: every subclass becomes a frozen dataclass and a pytree when it is defined.

    Fields are leaves or subtrees; fields declared with `static` belong to the tree structure.
    There is no `__post_init__` validation: JAX rebuilds records from tracers and placeholders
    at every unflatten. Validate once, on the host, where the value enters.

    >>> class Point(Record):
    ...     x: float
    ...     name: str = static(default="p")
    >>> jax.tree.map(lambda leaf: leaf * 2, Point(x=3.0))
    Point(x=6.0, name='p')
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, eq=False)(cls)
        fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
        jax.tree_util.register_dataclass(
            cls,
            data_fields=[field.name for field in fields if not field.metadata.get("static")],
            meta_fields=[field.name for field in fields if field.metadata.get("static")],
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields exchanged."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def as_arrays(tree: T) -> T:
    """Turn every number, and every tuple or list of numbers, in `tree` into a 32-bit array.

    Equal structures then compile once, and per-asset parameters become one `[A]` leaf.

    >>> as_arrays({"rate": (0.5, 1.0)})["rate"].shape
    (2,)
    """
    return jax.tree.map(_as_array, tree, is_leaf=_is_numbers)


def _is_numbers(node: Any) -> bool:
    if isinstance(node, (tuple, list)):
        return len(node) > 0 and all(_is_numbers(item) for item in node)
    return isinstance(node, (bool, int, float))


def _as_array(leaf: Any) -> jax.Array:
    array = np.asarray(leaf) if not isinstance(leaf, jax.Array) else leaf
    if array.dtype == np.float64:
        return jnp.asarray(array, jnp.float32)
    if array.dtype == np.int64:
        return jnp.asarray(array, jnp.int32)
    return jnp.asarray(array)


def where(condition: jax.Array, if_true: T, if_false: T) -> T:
    """Leafwise `jnp.where` for two trees of one structure; `condition` is a scalar.

    A leaf that is the same object on both sides is kept without a select.
    """
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), if_true, if_false)


def tree_sum(array: jax.Array, axis: int) -> jax.Array:
    """Sum over a short leading axis by pairwise halving.

    On the CPU, XLA runs a reduction over a non-minor axis one element at a time; halving leaves plain
    additions along the long last axis, which vectorise. Long axes go through `jnp.sum`.
    """
    length = array.shape[axis]
    if length == 0 or length > MAX_UNROLLED:
        return array.sum(axis, dtype=array.dtype)
    while length > 1:
        half = length // 2
        first = jax.lax.slice_in_dim(array, 0, half, axis=axis)
        second = jax.lax.slice_in_dim(array, half, 2 * half, axis=axis)
        rest = jax.lax.slice_in_dim(array, 2 * half, length, axis=axis)
        array = jnp.concatenate([first + second, rest], axis=axis) if length % 2 else first + second
        length = array.shape[axis]
    return jnp.squeeze(array, axis)
