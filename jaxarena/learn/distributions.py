"""Probability distributions over actions.

Belongs here: what a policy's outputs mean and how actions are drawn from them. Does not belong
here: networks, losses, environments.

Layout: the event axis comes first and everything after it is a batch (agents, markets), so that
reductions over a handful of categories run across contiguous rows. A distribution draws a *raw*
action and `action` maps it into the space. Log-probabilities are asked for raw actions: a raw
Gaussian sample survives where its squashed image has rounded to the bound, so that ratios of
probabilities are exact.

Uniform numbers of `jax.random.uniform` are multiples of 2**-23 below 1; categories are drawn by
inverting the cumulative weights with one such number, so weights below about 1e-7 are never drawn.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core import spaces
from jaxarena.core.tree import Record, static

#: Logit of an action that is not allowed: its weight underflows to exactly zero.
FORBIDDEN = -1e9
_LOG_TWO_PI = math.log(2.0 * math.pi)


class Distribution(Protocol):
    """What every distribution offers; `...` stands for the batch axes."""

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a raw action. key: consumed."""

    def mode(self) -> jax.Array:
        """The raw action that a deterministic policy takes."""

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-probability (or density) of the action that `raw` stands for: `[...]`."""

    def relative_log_prob(self, raw: jax.Array) -> jax.Array:
        """`log_prob` up to terms that do not depend on the parameters: all that a ratio needs."""

    def entropy(self) -> jax.Array:
        """Entropy in nats: `[...]`."""

    def action(self, raw: jax.Array) -> jax.Array:
        """The member of the action space that `raw` stands for."""


class Categorical(Record):
    """One choice among K: `p_k = exp(logit_k) / sum_j exp(logit_j)`.

    >>> Categorical(jnp.log(jnp.array([0.25, 0.75]))).mode()
    Array(1, dtype=int32)
    """

    logits: jax.Array  # [K, ...]

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a category by inverting the cumulative weights: int32 `[...]`. key: consumed."""
        weights = jnp.exp(self.logits - jnp.max(self.logits, axis=0, keepdims=True))
        # Summed one after the other, so that a zero weight leaves the sum as it is, bit for bit.
        unroll = min(weights.shape[0], 16)
        total, edges = jax.lax.scan(_add, jnp.zeros_like(weights[0]), weights, unroll=unroll)
        level = jax.random.uniform(key, total.shape, total.dtype) * total
        return jnp.sum(edges[:-1] <= level[None], axis=0, dtype=jnp.int32)

    def mode(self) -> jax.Array:
        """The likeliest category: int32 `[...]`."""
        return jnp.argmax(self.logits, axis=0).astype(jnp.int32)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-probability of the category `raw`, int32 `[...]`."""
        return jnp.sum(jnp.where(self._is(raw), self.logits, 0.0), axis=0) - jax.nn.logsumexp(self.logits, axis=0)

    def relative_log_prob(self, raw: jax.Array) -> jax.Array:
        """The same as `log_prob`."""
        return self.log_prob(raw)

    def entropy(self) -> jax.Array:
        """`-sum_k p_k log p_k`; categories without weight add nothing."""
        log_probs = jax.nn.log_softmax(self.logits, axis=0)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=0)

    def action(self, raw: jax.Array) -> jax.Array:
        """`raw` itself."""
        return raw

    def _is(self, raw: jax.Array) -> jax.Array:
        categories = jnp.arange(self.logits.shape[0], dtype=jnp.int32)
        return categories.reshape((-1,) + (1,) * raw.ndim) == raw[None]


class MultiCategorical(Record):
    """Independent choices, one among each of `sizes`; their logits lie one after the other on the first axis."""

    logits: jax.Array  # [sum(sizes), ...]
    sizes: tuple[int, ...] = static()

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw every choice: int32 `[len(sizes), ...]`. key: consumed."""
        keys = jax.random.split(key, len(self.sizes))
        return jax.vmap(lambda choice, key: choice.sample(key))(self._choices(), keys)

    def mode(self) -> jax.Array:
        """The likeliest category of every choice: int32 `[len(sizes), ...]`."""
        return jax.vmap(Categorical.mode)(self._choices())

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Sum of the choices' log-probabilities; `raw` is int32 `[len(sizes), ...]`."""
        return jnp.sum(jax.vmap(Categorical.log_prob)(self._choices(), raw), axis=0)

    def relative_log_prob(self, raw: jax.Array) -> jax.Array:
        """The same as `log_prob`."""
        return self.log_prob(raw)

    def entropy(self) -> jax.Array:
        """Sum of the choices' entropies."""
        return jnp.sum(jax.vmap(Categorical.entropy)(self._choices()), axis=0)

    def action(self, raw: jax.Array) -> jax.Array:
        """`raw` itself."""
        return raw

    def _choices(self) -> Categorical:
        """Logits as `[len(sizes), max(sizes), ...]`, filled up with forbidden categories."""
        most = max(self.sizes)
        batch = self.logits.shape[1:]
        if min(self.sizes) == most:
            return Categorical(self.logits.reshape(len(self.sizes), most, *batch))
        parts = jnp.split(self.logits, list(np.cumsum(self.sizes)[:-1]), axis=0)
        ends = [(0, 0)] * len(batch)
        padded = [jnp.pad(p, [(0, most - p.shape[0]), *ends], constant_values=FORBIDDEN) for p in parts]
        return Categorical(jnp.stack(padded))


class SquashedGaussian(Record):
    """A Gaussian pressed into a box: `a = middle + half * tanh(u)`, `u ~ Normal(mean, exp(log_std))`, per coordinate.

    The density of the action follows by change of variables,
    `log p(a) = log N(u) - log(half) - log(1 - tanh(u)**2)`, where the last term is computed as
    `2 (log 2 - |u| - log(1 + exp(-2 |u|)))` and so stays finite for every `u`.
    """

    mean: jax.Array  # [n, ...] of u
    log_std: jax.Array  # [n], the same in every state
    low: float = static()
    high: float = static()

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw `u`: `[n, ...]`. key: consumed."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self._rows(self.log_std)) * noise

    def mode(self) -> jax.Array:
        """The mean of `u`: the median of the action."""
        return self.mean

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of the action at `raw = u`, `[n, ...]`, summed over coordinates."""
        jacobian = math.log(0.5 * (self.high - self.low)) + _log_slope(raw)
        return self.relative_log_prob(raw) - jnp.sum(jacobian, axis=0)

    def relative_log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density of `u`: the change of variables is the same under all parameters."""
        score = (raw - self.mean) * jnp.exp(-self._rows(self.log_std))
        constant = jnp.sum(self.log_std) + 0.5 * _LOG_TWO_PI * self.mean.shape[0]
        return -0.5 * jnp.sum(jnp.square(score), axis=0) - constant

    def entropy(self) -> jax.Array:
        """An estimate of the action's differential entropy, without noise and with a useful gradient.

        Entropy of `u` plus the expected log-slope of the squashing, the latter by two-point
        Gauss-Hermite quadrature at `mean ± std`. Its error is below 0.03 nats per coordinate for
        std up to 0.5 and below 0.2 for std up to 1.
        """
        spread = jnp.exp(self._rows(self.log_std))
        slope = 0.5 * (_log_slope(self.mean + spread) + _log_slope(self.mean - spread))
        constant = 0.5 * (1.0 + _LOG_TWO_PI) + math.log(0.5 * (self.high - self.low))
        return jnp.sum(slope, axis=0) + jnp.sum(self.log_std) + constant * self.mean.shape[0]

    def action(self, raw: jax.Array) -> jax.Array:
        """`middle + half * tanh(raw)`, kept inside the box against rounding."""
        middle, half = 0.5 * (self.high + self.low), 0.5 * (self.high - self.low)
        return jnp.clip(middle + half * jnp.tanh(raw), self.low, self.high)

    def _rows(self, per_coordinate: jax.Array) -> jax.Array:
        return per_coordinate.reshape((-1,) + (1,) * (self.mean.ndim - 1))


@dataclasses.dataclass(frozen=True)
class ActionHead:
    """How a network's outputs become a distribution over one action space. Static and hashable."""

    space: spaces.Space
    num_outputs: int  # numbers that depend on the observation
    num_free: int  # learned numbers that do not

    def distribution(self, outputs: jax.Array, free: jax.Array, mask: jax.Array | None = None) -> Distribution:
        """Build the distribution.

        Args:
            outputs: `[num_outputs, ...]` logits, or means before squashing.
            free: `[num_free]` log standard deviations (none for discrete spaces).
            mask: bool of the shape of `outputs`, False where a category is forbidden; None allows
                everything. At least one category of every choice has to be allowed.

        Raises:
            ValueError: a mask for a continuous space.
        """
        if isinstance(self.space, spaces.Box):
            if mask is not None:
                raise ValueError("mask: a Box has no categories to forbid; use a Discrete or MultiDiscrete space")
            return SquashedGaussian(outputs, free, self.space.low, self.space.high)
        logits = outputs if mask is None else jnp.where(mask, outputs, FORBIDDEN)
        if isinstance(self.space, spaces.Discrete):
            return Categorical(logits)
        return MultiCategorical(logits, self.space.sizes)


def make_head(space: spaces.Space) -> ActionHead:
    """The distribution that fits an action space.

    Raises:
        ValueError: an unknown kind of space, or a Box without finite bounds.

    >>> make_head(spaces.MultiDiscrete((3, 2))).num_outputs
    5
    """
    if isinstance(space, spaces.Discrete):
        return ActionHead(space, space.n, 0)
    if isinstance(space, spaces.MultiDiscrete):
        return ActionHead(space, sum(space.sizes), 0)
    if isinstance(space, spaces.Box):
        if not (math.isfinite(space.low) and math.isfinite(space.high) and space.low < space.high):
            raise ValueError(f"action space: got {space}, a policy needs finite bounds with low < high")
        return ActionHead(space, space.size, space.size)
    raise ValueError(f"action space: got {space!r}, known are Box, Discrete and MultiDiscrete")


def _add(total: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = total + weight
    return total, total


def _log_slope(u: jax.Array) -> jax.Array:
    """`log(1 - tanh(u)**2)`."""
    size = jnp.abs(u)
    return 2.0 * (math.log(2.0) - size - jnp.log1p(jnp.exp(-2.0 * size)))
