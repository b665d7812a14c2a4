"""Random numbers drawn once per step and shared out, because drawing them dominates small markets."""

import jax
import jax.numpy as jnp

SQRT_2 = 1.4142135623730951


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform float32 values strictly between 0 and 1. key: consumed."""
    bits = jax.random.bits(key, shape, jnp.uint32)
    return (bits >> 9).astype(jnp.float32) * jnp.float32(2.0**-23) + jnp.float32(2.0**-24)


def normals(uniform: jax.Array) -> jax.Array:
    """Standard normal values from uniform ones, by inversion; at most 5.3 standard deviations out.

    >>> float(normals(jnp.array(0.5)))
    0.0
    """
    return jnp.float32(SQRT_2) * jax.lax.erf_inv(2.0 * uniform - 1.0)
