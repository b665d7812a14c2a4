"""Advantages against hand computation and a float64 oracle, losses against their formulas."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.learn import losses
from tests.reference import gae as reference

GAMMA, LAM = 0.9, 0.8


def column(values, dtype=jnp.float32):
    return jnp.asarray(values, dtype)[:, None]


def run_gae(reward, value, next_value, terminated, cut):
    flags = (column(terminated, bool), column(cut, bool))
    return np.asarray(losses.gae(column(reward), column(value), column(next_value), *flags, GAMMA, LAM))[:, 0]


# Two rows, r = (1, 2), V = (10, 20), V' = (20, 30).
# delta without an end: 1 + .9*20 - 10 = 9 and 2 + .9*30 - 20 = 9; terminated: 1 - 10 = -9 and 2 - 20 = -18.
@pytest.mark.parametrize(
    ("terminated", "cut", "expected"),
    [
        ((0, 0), (0, 0), (9 + 0.72 * 9, 9)),  # goes on
        ((0, 0), (0, 1), (9 + 0.72 * 9, 9)),  # truncated in the last row: still bootstraps
        ((0, 0), (1, 0), (9, 9)),  # truncated: bootstraps, but nothing flows over
        ((1, 0), (1, 0), (-9, 9)),  # terminated: no bootstrap, nothing flows over
        ((0, 1), (0, 1), (9 + 0.72 * -18, -18)),
        ((1, 1), (1, 1), (-9, -18)),
    ],
)
def test_gae_by_hand(terminated, cut, expected):
    result = run_gae((1.0, 2.0), (10.0, 20.0), (20.0, 30.0), terminated, cut)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_gae_matches_the_oracle_for_every_pattern_of_ends():
    rng = np.random.default_rng(0)
    kinds = {"goes on": (0, 0), "truncated": (0, 1), "terminated": (1, 1)}
    patterns = np.array(list(itertools.product(kinds.values(), repeat=4)), bool)  # [81, T, 2]
    terminated, cut = patterns[..., 0].T, patterns[..., 1].T
    reward, value, next_value = rng.normal(size=(3, 4, len(patterns))).astype(np.float32)
    arrays = (reward, value, next_value, terminated, cut)
    result = losses.gae(*map(jnp.asarray, arrays), GAMMA, LAM)
    for i in range(len(patterns)):
        expected = reference.advantages(*(array[:, i] for array in arrays), GAMMA, LAM)
        np.testing.assert_allclose(result[:, i], expected, rtol=2e-5, atol=2e-6)


def test_gae_names_an_argument_of_the_wrong_shape():
    good, bad = jnp.zeros((3, 2)), jnp.zeros((3, 1))
    with pytest.raises(ValueError, match="next_value"):
        losses.gae(good, good, bad, good > 0, good > 0, GAMMA, LAM)


def test_policy_loss_is_clipped_on_the_side_that_gains():
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = jnp.array([2.0, -2.0, 2.0, -2.0, 3.0])
    expected = [-1.2 * 2, 1.5 * 2, -0.5 * 2, 0.8 * 2, -1.1 * 3]
    np.testing.assert_allclose(losses.policy_loss(jnp.log(ratio), advantage, 0.2), expected, rtol=1e-6)


def test_value_loss_takes_the_worse_of_the_two_errors():
    value, old, target = jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
    np.testing.assert_allclose(losses.value_loss(value, old, target, 0.2), [0.5 * 0.64, 0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.value_loss(value, old, target, None), [0.0, 0.5], rtol=1e-6)


def test_rows_that_are_not_real_change_nothing():
    rng = np.random.default_rng(1)
    advantage, mask = rng.normal(3.0, 2.0, (5, 4)).astype(np.float32), rng.random((5, 4)) < 0.6
    spoiled = np.where(mask, advantage, 1e6).astype(np.float32)
    result = np.asarray(losses.normalize_advantage(jnp.asarray(spoiled), jnp.asarray(mask)))
    real = advantage[mask].astype(np.float64)
    np.testing.assert_allclose(result[mask], (real - real.mean()) / real.std(), rtol=1e-4, atol=1e-5)
    assert (result[~mask] == 0.0).all()
    np.testing.assert_allclose(losses.masked_mean(jnp.asarray(spoiled), jnp.asarray(mask)), real.mean(), rtol=1e-5)
    assert float(losses.masked_mean(jnp.ones(3), jnp.zeros(3, bool))) == 0.0


def test_diagnostics():
    log_ratio = jnp.log(jnp.array([1.0, 1.3, 0.7, 1.1]))
    np.testing.assert_array_equal(losses.is_clipped(log_ratio, 0.2), [0.0, 1.0, 1.0, 0.0])
    ratio = np.array([1.0, 1.3, 0.7, 1.1])
    np.testing.assert_allclose(losses.approx_kl(log_ratio), ratio - 1 - np.log(ratio), atol=1e-6)
    target, mask = jnp.array([1.0, 2.0, 3.0, 99.0]), jnp.array([True, True, True, False])
    assert float(losses.explained_variance(target, target, mask)) == pytest.approx(1.0)
    assert float(losses.explained_variance(jnp.zeros(4), target, mask)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.explained_variance(target, jnp.ones(4), mask)) == 0.0
