"""Samples lie in their space; contains tells in from out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (Box(-1.0, 2.0, 3), (5, 3), jnp.float32),
        (Discrete(4), (5,), jnp.int32),
        (MultiDiscrete((2, 5)), (5, 2), jnp.int32),
    ],
)
def test_samples_lie_inside(space, shape, dtype):
    sample = space.sample(jax.random.key(0), (5,))
    assert (sample.shape, sample.dtype) == (shape, dtype)
    assert space.contains(space.sample(jax.random.key(1), (1000,))).all()
    assert space.contains(sample).shape == (5,)
    assert hash(space) == hash(type(space)(**vars(space)))


def test_box_bounds_belong_to_it_and_nan_does_not():
    box = Box(-1.0, 1.0, 2)
    values = jnp.array([[-1.0, 1.0], [0.0, 1.001], [jnp.nan, 0.0], [-jnp.inf, 0.0]])
    np.testing.assert_array_equal(box.contains(values), [True, False, False, False])


def test_integers_outside_and_fractions_do_not_belong():
    np.testing.assert_array_equal(Discrete(3).contains(jnp.array([-1, 0, 2, 3])), [False, True, True, False])
    assert not Discrete(3).contains(jnp.array(1.0))
    inside = MultiDiscrete((2, 3)).contains(jnp.array([[1, 2], [2, 2], [0, -1]]))
    np.testing.assert_array_equal(inside, [True, False, False])


@pytest.mark.parametrize("n", [1, 3, 7])
def test_every_integer_is_as_likely(n):
    counts = np.bincount(Discrete(n).sample(jax.random.key(2), (6000,)), minlength=n)
    expected = 6000 / n
    assert len(counts) == n
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected) + 1)


def test_each_entry_has_its_own_range():
    sample = MultiDiscrete((2, 5)).sample(jax.random.key(3), (500,))
    np.testing.assert_array_equal(sample.max(0), [1, 4])
    np.testing.assert_array_equal(sample.min(0), [0, 0])
