"""Running statistics against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.learn import normalize


def test_merged_moments_are_those_of_all_real_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(1000.0, [[[0.5]], [[20.0]]], (9, 2, 3, 8)).astype(np.float32)  # [T, D, N, E], far from zero
    mask = rng.random((9, 1, 3, 8)) < 0.7
    mask[4] = False  # a part without any data
    parts = jax.vmap(lambda x, m: normalize.moments(x, m, (1, 2)))(jnp.asarray(x), jnp.asarray(mask))
    stats = normalize.merge_all(normalize.init_moments((2,)), parts)
    for d in range(2):
        real = x[:, d][mask[:, 0]].astype(np.float64)
        np.testing.assert_allclose(stats.mean[d], real.mean(), rtol=1e-6)
        np.testing.assert_allclose(stats.variance()[d], real.var(), rtol=1e-3)
    assert float(stats.count) == mask.sum()


def test_normalize_centres_scales_and_clips():
    stats = normalize.Moments(jnp.float32(4.0), jnp.array([1.0, -2.0]), jnp.array([16.0, 1.0]))
    x = jnp.array([[1.0, 3.0, 1e9], [-2.0, -1.5, -1e9]])
    np.testing.assert_allclose(normalize.normalize(x, stats, 5.0), [[0.0, 1.0, 5.0], [0.0, 1.0, -5.0]], rtol=1e-6)


def test_first_statistics_leave_observations_as_they_are():
    x = jnp.linspace(-3.0, 3.0, 8).reshape(2, 4)
    np.testing.assert_allclose(normalize.normalize(x, normalize.init_moments((2,)), 10.0), x, rtol=1e-6)


def test_reward_scale_follows_each_agents_return():
    rng = np.random.default_rng(1)
    reward = rng.normal(0.2, 1.0, (20, 2, 3)).astype(np.float32)
    cut, acted = rng.random((20, 2, 3)) < 0.2, rng.random((20, 2, 3)) < 0.9
    running, totals = np.zeros((2, 3)), []
    for t in range(20):
        running = 0.9 * running + reward[t]
        totals.append(running[acted[t]])
        running = np.where(cut[t], 0.0, running)
    scale = normalize.init_reward_scale((2, 3))
    for half in (slice(0, 10), slice(10, 20)):
        scale = normalize.update_reward_scale(
            scale, jnp.asarray(reward[half]), jnp.asarray(acted[half]), jnp.asarray(cut[half]), 0.9
        )
    np.testing.assert_allclose(scale.running, running, rtol=1e-4, atol=1e-5)
    std = np.concatenate(totals).std()
    np.testing.assert_allclose(normalize.scale_reward(jnp.array([2.0, 0.0]), scale, 10.0), [2.0 / std, 0.0], rtol=1e-4)
    assert float(normalize.scale_reward(jnp.float32(1e6), scale, 10.0)) == 10.0
