"""The unrolled generator gives the published words, and the keys that JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxarena.core import draws
from jaxarena.core.once import once
from jaxarena.core.reduce import fold, map_reduce, mean, total

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "count", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key, count, expected):
    """Vectors published with Random123 (Salmon et al. 2011) for 20 rounds."""
    words = draws.threefry2x32(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, count)))
    assert tuple(int(word) for word in words) == expected


def test_fold_in_is_the_one_of_jax():
    key = jax.random.key(42)
    for number in (0, 1, 7, 2**31 - 1):
        ours, theirs = draws.fold_in(key, number), jax.random.fold_in(key, number)
        np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_draws_are_uniform_normal_and_distinct():
    uniform = np.asarray(draws.uniforms(jax.random.key(1), (3, 6667)))
    assert uniform.min() > 0.0
    assert uniform.max() < 1.0
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(np.asarray(draws.normals(jnp.asarray(uniform))).ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(uniform[0], uniform[1])[0, 1]) < 0.05
    words = np.asarray(draws.bits(jax.random.key(2), (1001,)))
    assert len(np.unique(words)) == 1001


def test_a_batch_of_keys_is_refused():
    with pytest.raises(ValueError, match="expected one threefry key"):
        draws.bits(jax.random.split(jax.random.key(0), 3), (2,))


def test_once_changes_nothing_under_any_transformation():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([True, False])}

    def doubled(tree):
        return jax.tree.map(lambda x: x * 2, once(tree))

    expected = jax.tree.map(lambda x: x * 2, tree)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x], axis=-1), tree)
    for result in (
        doubled(tree),
        jax.jit(doubled)(tree),
        jax.tree.map(lambda x: x[0], jax.vmap(doubled, in_axes=-1)(stacked)),
        jax.lax.scan(lambda carry, _: (once(carry), doubled(carry)), tree, None, 3)[1],
    ):
        for name, value in expected.items():
            np.testing.assert_array_equal(np.asarray(result[name]).reshape(-1, *value.shape)[0], value)


@pytest.mark.parametrize("shape", [(), (1,), (1, 2), (8,), (64, 512)], ids=str)
def test_once_is_what_keeps_a_compiler_from_evaluating_again(shape):
    if jax.devices()[0].platform != "cpu":
        pytest.skip("other backends keep the optimization barrier")

    def readers(kept, x, y):
        value = kept(x * y)
        return value + 1.0, (value - y)[..., None]

    def products(kept):
        x, y = jnp.ones(shape), jnp.full(shape, 3.0)
        return jax.jit(readers, static_argnums=0).lower(kept, x, y).compile().as_text().count(" multiply(")

    assert products(once) == 1
    assert products(lambda value: value) == 2


@pytest.mark.parametrize("length", [1, 2, 5, 32, 33, 100])
def test_folds_equal_numpy(length):
    array = np.random.default_rng(length).integers(-50, 50, (3, length, 4)).astype(np.int32)
    np.testing.assert_array_equal(total(jnp.asarray(array), 1), array.sum(1))
    np.testing.assert_array_equal(fold(jnp.maximum, jnp.asarray(array), 1), array.max(1))
    np.testing.assert_allclose(mean(jnp.asarray(array, jnp.float32), 1), array.mean(1), atol=1e-5)


@pytest.mark.parametrize("length", [1, 5, 32, 33, 320, 512, 513, 1100])
def test_map_reduce_is_a_fold_of_what_a_function_makes_of_each_row(length):
    rows = np.random.default_rng(length).integers(-50, 50, (2, length, 4)).astype(np.int32)
    limit = jnp.arange(4)
    tree = {"price": jnp.asarray(rows[0]), "lots": jnp.asarray(rows[1])}
    got = map_reduce(jnp.add, lambda row: jnp.where(row["price"] > limit, row["lots"], 0), tree)
    np.testing.assert_array_equal(got, np.where(rows[0] > np.arange(4), rows[1], 0).sum(0))
    np.testing.assert_array_equal(map_reduce(jnp.minimum, lambda row: row["lots"] * 2, tree), 2 * rows[1].min(0))
