"""Distributions against scipy and against the law they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete
from jaxarena.learn.distributions import Categorical, MultiCategorical, SquashedGaussian, make_head

LOGITS = np.array([0.3, -1.2, 2.0, 0.0, -4.0], np.float32)


def softmax(logits):
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / weights.sum()


def test_categorical_matches_scipy():
    oracle = stats.rv_discrete(values=(np.arange(5), softmax(LOGITS)))
    distribution = Categorical(jnp.asarray(LOGITS))
    for k in range(5):
        np.testing.assert_allclose(distribution.log_prob(jnp.int32(k)), oracle.logpmf(k), rtol=2e-6)
    np.testing.assert_allclose(distribution.entropy(), oracle.entropy(), rtol=2e-6)
    assert int(distribution.mode()) == 2


def test_categorical_samples_follow_their_law():
    draws = 40_000
    raw = Categorical(jnp.tile(LOGITS[:, None], (1, draws))).sample(jax.random.key(0))
    counts = np.bincount(np.asarray(raw), minlength=5)
    assert raw.dtype == jnp.int32
    assert stats.chisquare(counts, softmax(LOGITS) * draws).pvalue > 1e-3


@pytest.mark.parametrize("forbidden", [[0], [4], [0, 1, 2, 3], [1, 2, 4]])
def test_forbidden_categories_are_never_drawn(forbidden):
    mask = np.ones(5, bool)
    mask[forbidden] = False
    batch = (5, 100_000)
    head = make_head(Discrete(5))
    logits = jnp.broadcast_to(10.0 * LOGITS[:, None], batch)
    distribution = head.distribution(logits, jnp.zeros(0), jnp.broadcast_to(mask[:, None], batch))
    drawn = set(np.unique(distribution.sample(jax.random.key(1))).tolist())
    assert drawn <= set(np.flatnonzero(mask).tolist())
    assert bool(jnp.all(mask[distribution.mode()]))
    expected = stats.entropy(softmax(10.0 * LOGITS[mask]))
    np.testing.assert_allclose(distribution.entropy()[0], expected, rtol=1e-4, atol=1e-6)


def test_a_zero_weight_between_others_never_gets_the_rounding():
    # 300 categories, every second one forbidden: a sum in another order would leave slivers.
    mask = np.arange(300) % 2 == 0
    logits = np.random.default_rng(0).normal(size=(300, 20_000)).astype(np.float32)
    distribution = make_head(Discrete(300)).distribution(
        jnp.asarray(logits), jnp.zeros(0), jnp.broadcast_to(mask[:, None], logits.shape)
    )
    raw = np.asarray(distribution.sample(jax.random.key(2)))
    assert mask[raw].all()
    assert len(np.unique(raw)) == 150


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4, 3)])
def test_multi_categorical_is_a_product(sizes):
    logits = np.random.default_rng(1).normal(size=(sum(sizes), 7)).astype(np.float32)
    parts = np.split(logits, np.cumsum(sizes)[:-1])
    distribution = MultiCategorical(jnp.asarray(logits), sizes)
    raw = distribution.sample(jax.random.key(3))
    assert raw.shape == (len(sizes), 7)
    for row in range(7):
        probabilities = [softmax(part[:, row]) for part in parts]
        expected = sum(np.log(p[int(k)]) for p, k in zip(probabilities, raw[:, row], strict=True))
        np.testing.assert_allclose(distribution.log_prob(raw)[row], expected, rtol=1e-5)
        np.testing.assert_allclose(distribution.entropy()[row], sum(map(stats.entropy, probabilities)), rtol=1e-5)
        assert distribution.mode()[:, row].tolist() == [int(np.argmax(p)) for p in probabilities]


def test_multi_categorical_samples_follow_their_law_and_are_independent():
    sizes, draws = (2, 3), 30_000
    logits = np.array([0.0, 1.0, 0.5, -0.5, 0.0], np.float32)
    raw = np.asarray(MultiCategorical(jnp.tile(logits[:, None], (1, draws)), sizes).sample(jax.random.key(4)))
    joint = np.outer(softmax(logits[:2]), softmax(logits[2:])).ravel()
    counts = np.bincount(raw[0] * 3 + raw[1], minlength=6)
    assert stats.chisquare(counts, joint * draws).pvalue > 1e-3


def squashed_density(action, mean, std, low, high):
    half = 0.5 * (high - low)
    inner = (action - low) / half - 1.0
    return stats.norm.pdf(np.arctanh(inner), mean, std) / (half * (1.0 - inner**2))


def test_squashed_gaussian_log_prob_is_the_density_of_the_action():
    low, high, mean, std = -1.0, 3.0, 0.4, 0.7
    distribution = SquashedGaussian(jnp.full((1, 1), mean), jnp.log(jnp.array([std])), low, high)
    for action in (-0.9, 0.0, 1.3, 2.8):
        raw = jnp.full((1, 1), np.arctanh((action - low) / (0.5 * (high - low)) - 1.0), jnp.float32)
        np.testing.assert_allclose(distribution.action(raw)[0, 0], action, rtol=1e-5)
        expected = np.log(squashed_density(action, mean, std, low, high))
        np.testing.assert_allclose(distribution.log_prob(raw)[0], expected, rtol=2e-5)


def test_squashed_gaussian_samples_follow_their_law():
    mean, std, draws = -0.3, 0.8, 20_000
    distribution = SquashedGaussian(jnp.full((1, draws), mean), jnp.log(jnp.array([std])), -2.0, 0.0)
    action = np.asarray(distribution.action(distribution.sample(jax.random.key(5))))[0]
    cdf = lambda a: stats.norm.cdf(np.arctanh(np.clip(a + 1.0, -1 + 1e-12, 1 - 1e-12)), mean, std)  # noqa: E731
    assert stats.kstest(action, cdf).pvalue > 1e-3


@pytest.mark.parametrize(("std", "tolerance"), [(0.1, 0.03), (0.5, 0.03), (1.0, 0.2)])
@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.6])
def test_squashed_gaussian_entropy_estimate_is_as_close_as_documented(mean, std, tolerance):
    edges = np.tanh([mean - 8 * std, mean + 8 * std])

    def integrand(action):
        density = squashed_density(action, mean, std, -1.0, 1.0)
        return -density * np.log(density) if density > 0.0 else 0.0

    expected = integrate.quad(integrand, *edges, points=[np.tanh(mean)], limit=400)[0]
    distribution = SquashedGaussian(jnp.full((1, 1), mean), jnp.log(jnp.array([std])), -1.0, 1.0)
    assert abs(float(distribution.entropy()[0]) - expected) < tolerance


def test_squashed_gaussian_is_finite_far_out_and_its_ratios_exact():
    raw = jnp.array([[-40.0, -9.0, 9.0, 40.0]])
    old = SquashedGaussian(jnp.zeros((1, 4)), jnp.zeros(1), -1.0, 1.0)
    new = SquashedGaussian(jnp.full((1, 4), 0.25), jnp.full(1, 0.125), -1.0, 1.0)
    assert bool(jnp.all(jnp.isfinite(old.log_prob(raw))))
    assert bool(jnp.all(jnp.abs(old.action(raw)) <= 1.0))
    gradient = jax.grad(lambda mean: SquashedGaussian(mean, jnp.zeros(1), -1.0, 1.0).log_prob(raw).sum())
    assert bool(jnp.all(jnp.isfinite(gradient(jnp.zeros((1, 4))))))
    expected = stats.norm.logpdf(raw, 0.25, np.exp(0.125)) - stats.norm.logpdf(raw, 0.0, 1.0)
    ratio = new.relative_log_prob(raw) - old.relative_log_prob(raw)
    np.testing.assert_allclose(ratio, expected[0], rtol=1e-5)


def test_heads_fit_their_spaces():
    for space, outputs, free in ((Discrete(4), 4, 0), (MultiDiscrete((2, 3)), 5, 0), (Box(-1.0, 2.0, 3), 3, 3)):
        head = make_head(space)
        assert (head.num_outputs, head.num_free) == (outputs, free)
        distribution = head.distribution(jnp.zeros((outputs, 6)), jnp.zeros(free))
        action = distribution.action(distribution.sample(jax.random.key(6)))
        assert bool(jnp.all(space.contains(jnp.moveaxis(action, 0, -1) if action.ndim > 1 else action)))


def test_heads_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="finite bounds"):
        make_head(Box(-np.inf, np.inf, 2))
    with pytest.raises(ValueError, match="known are"):
        make_head("up or down")
    with pytest.raises(ValueError, match="no categories"):
        make_head(Box(0.0, 1.0, 1)).distribution(jnp.zeros((1, 2)), jnp.zeros(1), jnp.ones((1, 2), bool))
