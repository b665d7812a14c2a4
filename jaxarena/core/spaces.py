"""Action and observation spaces of one agent.

Each space samples with a JAX key, tells whether a batch of values lies in it, and is a static,
hashable description; bridges convert it to Gymnasium's classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.draws import uniforms


@dataclasses.dataclass(frozen=True)
class Box:
    """Float32 vectors of shape `[size]` with every entry in `[low, high]`.

    >>> bool(Box(-1.0, 1.0, 2).contains(jnp.array([0.5, -1.0])))
    True
    """

    low: float
    high: float
    size: int

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform values `[*shape, size]`; needs finite bounds. key: consumed."""
        return self.low + (self.high - self.low) * uniforms(key, (*shape, self.size))

    def contains(self, values: Any) -> jax.Array:
        """Whether each `[..., size]` vector lies in the space: `[...]` bool."""
        values = jnp.asarray(values)
        return jnp.all((values >= self.low) & (values <= self.high), axis=-1)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Integers `0 .. n - 1`."""

    n: int

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform values of shape `shape`, int32. key: consumed."""
        return _uniform_integers(key, shape, self.n)

    def contains(self, values: Any) -> jax.Array:
        """Whether each value lies in the space: bool of the same shape."""
        values = jnp.asarray(values)
        return (values >= 0) & (values < self.n) & jnp.issubdtype(values.dtype, jnp.integer)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Vectors of integers; entry `i` lies in `0 .. sizes[i] - 1`."""

    sizes: tuple[int, ...]

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform values `[*shape, len(sizes)]`, int32. key: consumed."""
        return _uniform_integers(key, (*shape, len(self.sizes)), np.asarray(self.sizes, np.int32))

    def contains(self, values: Any) -> jax.Array:
        """Whether each `[..., len(sizes)]` vector lies in the space: `[...]` bool."""
        values = jnp.asarray(values)
        inside = (values >= 0) & (values < np.asarray(self.sizes)) & jnp.issubdtype(values.dtype, jnp.integer)
        return jnp.all(inside, axis=-1)


Space = Box | Discrete | MultiDiscrete


def _uniform_integers(key: jax.Array, shape: tuple[int, ...], n: int | np.ndarray) -> jax.Array:
    """One draw of 23 bits per integer; each value's odds are right to n / 2**23."""
    return jnp.minimum((uniforms(key, shape) * n).astype(jnp.int32), n - 1)
