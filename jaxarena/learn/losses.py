"""Advantages and losses of proximal policy optimisation.

Belongs here: small pure functions of arrays. Does not belong here: networks, sampling, loops over
minibatches. Rows are time, agent and market, `[T, N, E]` or any part of it; a row whose agent was
dead before the step is not data, and every mean below is over real rows only.
"""

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_shape


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    cut: jax.Array,
    gamma: float,
    lam: float,
) -> jax.Array:
    """Generalised advantage estimation over a rollout that may contain ends of episodes.

    `delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)` and
    `A_t = delta_t + gamma lam (1 - cut_t) A_{t+1}`. Only `terminated` zeroes the bootstrap; `cut`
    stops the recursion at every end, so that no episode leaks into the one before it.

    Args:
        reward: `[T, ...]`.
        value: `[T, ...]` of the observation acted on.
        next_value: `[T, ...]` of the observation that the action led to: before the reset, where there was one.
        terminated: `[T, ...]` bool, the agent's problem ended here.
        cut: `[T, ...]` bool, terminated, truncated or reset here.
        gamma: discount per step.
        lam: weight of longer estimates.

    Returns:
        Advantages `[T, ...]`; `advantage + value` is the critic's target.

    Raises:
        ValueError: an argument of another shape than `reward`.

    Source: Schulman et al. (2016), equations 11 to 16; Pardo et al. (2018) for time limits.
    """
    for name, array in {"value": value, "next_value": next_value, "terminated": terminated, "cut": cut}.items():
        expect_shape(name, array, reward.shape)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = gamma * lam * (1.0 - cut.astype(reward.dtype))

    def step(later: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = row[0] + row[1] * later
        return advantage, advantage

    return jax.lax.scan(step, jnp.zeros_like(reward[0]), (delta, decay), reverse=True)[1]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `x` over the rows where `mask`; zero where there are none."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(x.dtype)


def normalize_advantage(advantage: jax.Array, mask: jax.Array, eps: float = 1e-8) -> jax.Array:
    """Zero mean and unit variance over real rows; zero on the others."""
    centred = advantage - masked_mean(advantage, mask)
    variance = masked_mean(jnp.square(centred), mask)
    return jnp.where(mask, centred * jax.lax.rsqrt(variance + eps), 0.0)


def policy_loss(log_ratio: jax.Array, advantage: jax.Array, clip_eps: float) -> jax.Array:
    """Clipped surrogate per row: `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`, `rho = exp(log_ratio)`.

    Source: Schulman et al. (2017), equation 7.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def value_loss(value: jax.Array, old_value: jax.Array, target: jax.Array, clip_eps: float | None) -> jax.Array:
    """Half the squared error per row, not less than that of a value that moved at most `clip_eps` (None: no limit)."""
    error = jnp.square(value - target)
    if clip_eps is None:
        return 0.5 * error
    near = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return 0.5 * jnp.maximum(error, jnp.square(near - target))


def approx_kl(log_ratio: jax.Array) -> jax.Array:
    """Estimate per row of KL(old, new): `rho - 1 - log rho`, unbiased and never negative.

    Source: Schulman (2020), "Approximating KL divergence", estimator k3.
    """
    return jnp.expm1(log_ratio) - log_ratio


def is_clipped(log_ratio: jax.Array, clip_eps: float) -> jax.Array:
    """Whether the ratio left `[1 - eps, 1 + eps]`: float `[...]`."""
    return (jnp.abs(jnp.expm1(log_ratio)) > clip_eps).astype(log_ratio.dtype)


def explained_variance(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """`1 - Var(target - value) / Var(target)` over real rows; zero where the target does not vary."""

    def variance(x: jax.Array) -> jax.Array:
        return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)

    total = variance(target)
    return jnp.where(total > 0.0, 1.0 - variance(target - value) / jnp.where(total > 0.0, total, 1.0), 0.0)
