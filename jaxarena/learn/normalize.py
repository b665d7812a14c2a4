"""Running statistics that bring observations and rewards to unit scale.

Belongs here: moments, their merging, and what is done with them. Statistics are arrays in the
training state, one set per policy group. A rollout is normalised throughout with the statistics
that were known when it began, so the policy that acted is the policy that is trained; merging
comes after. To freeze them, as an evaluation does, do not merge.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxarena.core.tree import Record

_EPS = 1e-8


class Moments(Record):
    """Count, mean and sum of squared deviations of what was seen so far."""

    count: jax.Array  # [] float32
    mean: jax.Array  # [...]
    m2: jax.Array  # [...]

    def variance(self) -> jax.Array:
        """Population variance `[...]`; one as long as nothing was seen."""
        return jnp.where(self.count > 0.0, self.m2 / jnp.maximum(self.count, 1.0), 1.0)


def init_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Nothing seen yet: mean 0 and variance 1, without any weight in a merge."""
    return Moments(count=jnp.float32(0.0), mean=jnp.zeros(shape, jnp.float32), m2=jnp.zeros(shape, jnp.float32))


def moments(x: jax.Array, mask: jax.Array, axes: Sequence[int]) -> Moments:
    """Moments of `x` over `axes`, rows with a False mask left out.

    Args:
        x: values.
        mask: bool, broadcastable against `x` and of equal rank.
        axes: the axes to reduce; every axis of `mask` that is longer than 1 is among them.
    """
    count = jnp.sum(mask, dtype=jnp.float32)
    share = 1.0 / jnp.maximum(count, 1.0)
    mean = jnp.sum(jnp.where(mask, x, 0.0), axis=tuple(axes), keepdims=True) * share
    m2 = jnp.sum(jnp.where(mask, jnp.square(x - mean), 0.0), axis=tuple(axes))
    return Moments(count=count, mean=jnp.squeeze(mean, tuple(axes)), m2=m2)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of two samples taken together.

    Source: Chan, Golub and LeVeque (1983), equation 2.1.
    """
    count = first.count + second.count
    weight = second.count / jnp.maximum(count, 1.0)
    delta = second.mean - first.mean
    return Moments(
        count=count,
        mean=first.mean + delta * weight,
        m2=first.m2 + second.m2 + jnp.square(delta) * (first.count * weight),
    )


def merge_all(first: Moments, others: Moments) -> Moments:
    """Merge `first` with a stack of moments, `others[T]`, one after the other."""
    return jax.lax.scan(lambda total, part: (merge(total, part), None), first, others)[0]


def normalize(x: jax.Array, stats: Moments, clip: float) -> jax.Array:
    """`clip((x - mean) / std, ±clip)` along the first axis of `x [D, ...]`."""
    rows = (-1,) + (1,) * (x.ndim - 1)
    scale = jax.lax.rsqrt(stats.variance() + _EPS)
    return jnp.clip((x - stats.mean.reshape(rows)) * scale.reshape(rows), -clip, clip)


class RewardScale(Record):
    """Statistics of the discounted return, from which rewards get their scale."""

    running: jax.Array  # [N, E] discounted return so far
    stats: Moments  # scalars


def init_reward_scale(shape: tuple[int, ...]) -> RewardScale:
    """No return yet for any agent of any market: `shape = (N, E)`."""
    return RewardScale(running=jnp.zeros(shape, jnp.float32), stats=init_moments())


def update_reward_scale(
    scale: RewardScale, reward: jax.Array, acted: jax.Array, cut: jax.Array, gamma: float
) -> RewardScale:
    """Follow `R_t = r_t + gamma R_{t-1}` of every agent through a rollout and merge its moments.

    Args:
        scale: the statistics before the rollout.
        reward: `[T, N, E]`.
        acted: `[T, N, E]` bool, real rows.
        cut: `[T, N, E]` bool; the return starts again after such a row.
        gamma: discount per step.
    """

    def step(running: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total = gamma * running + row[0]
        return jnp.where(row[1], 0.0, total), total

    running, totals = jax.lax.scan(step, scale.running, (reward, cut))
    return RewardScale(running=running, stats=merge(scale.stats, moments(totals, acted, (0, 1, 2))))


def scale_reward(reward: jax.Array, scale: RewardScale, clip: float) -> jax.Array:
    """Reward over the standard deviation of the discounted return, clipped; its sign and zero stay."""
    return jnp.clip(reward * jax.lax.rsqrt(scale.stats.variance() + _EPS), -clip, clip)
