"""Frozen dataclasses that are JAX pytrees, and the few tree operations every layer shares.

Belongs here: what any pytree needs. Does not belong here: anything that knows about markets.
"""

import dataclasses
from typing import Any, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def static(*, default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A field that decides shapes or code paths: part of the tree's structure, never traced.

    Its value must be hashable; changing it compiles again.
    """
    return dataclasses.field(default=default, metadata={"static": True}, **kwargs)


def derived(*, default: None) -> Any:
    """A field that is made from others when a value is built: None until then, and never part of a config."""
    return dataclasses.field(default=default, metadata={"derived": True})


@dataclass_transform(frozen_default=True, field_specifiers=(static, derived, dataclasses.field))
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
        _register(cls)

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields exchanged."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _register(cls: type) -> None:
    """Make a dataclass a pytree.

    Not `jax.tree_util.register_dataclass`: with jax 0.10.2 the structures it makes compare equal across classes of
    the same shape, and `jit` can then run the program of another class.
    """
    fields = dataclasses.fields(cls)
    data = [field.name for field in fields if not field.metadata.get("static")]
    meta = [field.name for field in fields if field.metadata.get("static")]

    def flatten(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(record, name) for name in data], tuple(getattr(record, name) for name in meta)

    def flatten_with_keys(record: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, aux = flatten(record)
        return [(jax.tree_util.GetAttrKey(name), child) for name, child in zip(data, children, strict=True)], aux

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        record: Any = object.__new__(cls)
        for name, value in (*zip(data, children, strict=True), *zip(meta, aux, strict=True)):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with a readable path such as `params/actor/kernel`; the leaf of a tree that is one is called `state`.

    >>> named_leaves({"mean": 0.0, "layers": [1.0]})
    [('layers/0', 1.0), ('mean', 0.0)]
    """
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/") or "state", leaf) for path, leaf in paths]


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
