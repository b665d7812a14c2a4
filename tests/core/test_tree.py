"""Records are frozen pytrees; the shared tree operations keep types and values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.tree import Record, as_arrays, static, where


class Point(Record):
    x: jax.Array
    name: str = static(default="p")


def test_a_record_is_frozen_and_static_fields_are_structure():
    point = Point(x=jnp.ones(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 1
    assert len(jax.tree.leaves(point)) == 1
    assert jax.tree.structure(point) != jax.tree.structure(Point(x=jnp.ones(2), name="q"))
    assert point.replace(name="q").name == "q"


def test_as_arrays_makes_32_bit_leaves_and_one_leaf_of_a_tuple_of_numbers():
    tree = as_arrays({"a": 1, "b": 2.0, "c": (1.0, 2.0), "d": np.arange(3), "e": True, "f": (Point(x=3.0),)})
    assert {name: leaf.dtype for name, leaf in tree.items() if name in "abcde"} == {
        "a": jnp.int32,
        "b": jnp.float32,
        "c": jnp.float32,
        "d": jnp.int32,
        "e": jnp.bool_,
    }
    assert tree["c"].shape == (2,)
    assert tree["f"][0].x.dtype == jnp.float32


def test_where_selects_leaf_by_leaf():
    shared = jnp.zeros(2)
    picked = where(jnp.asarray(False), {"a": jnp.ones(2), "b": shared}, {"a": jnp.zeros(2), "b": shared})
    assert picked["b"] is shared
    np.testing.assert_array_equal(picked["a"], 0.0)
