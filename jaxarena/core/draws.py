"""Random numbers for the hot loop: Threefry-2x32 with its rounds unrolled.

The same generator that JAX uses, so keys are ordinary `jax.random` keys and `fold_in` gives the same
key as `jax.random.fold_in`. JAX lowers its rounds to a loop on the CPU, which costs more than a small
market's whole step; written out they fuse into one pass. Draws take both words of each block.
Source: Salmon, Moraes, Dror and Shaw (2011).
"""

import math

import jax
import jax.numpy as jnp

from jaxarena.core.once import once

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_SQRT_2 = 1.4142135623730951


def threefry2x32(key: tuple[jax.Array, jax.Array], count: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Encrypt a two-word counter with a two-word key, 20 rounds; all uint32, broadcast together.

    >>> zero = jnp.uint32(0)
    >>> [hex(int(word)) for word in threefry2x32((zero, zero), (zero, zero))]
    ['0x6b200159', '0x99ba4efe']
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = count[0] + schedule[0], count[1] + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def fold_in(key: jax.Array, data: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in`: a new key from a key and a number. key: not consumed."""
    words = _words(key)
    x, y = once(threefry2x32(words, (jnp.uint32(0), jnp.asarray(data).astype(jnp.uint32))))  # chains compile slowly
    return jax.random.wrap_key_data(jnp.stack([x, y]), impl="threefry2x32")


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 words of any shape. key: consumed."""
    size = math.prod(shape)
    block = jnp.arange((size + 1) // 2, dtype=jnp.uint32)
    x, y = threefry2x32(_words(key), (jnp.zeros_like(block), block))
    return jnp.concatenate([x, y])[:size].reshape(shape)


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform float32 values strictly between 0 and 1. key: consumed."""
    return (bits(key, shape) >> 9).astype(jnp.float32) * jnp.float32(2.0**-23) + jnp.float32(2.0**-24)


def normals(uniform: jax.Array) -> jax.Array:
    """Standard normal values from uniform ones, by inversion; at most 5.3 standard deviations out.

    >>> float(normals(jnp.array(0.5)))
    0.0
    """
    return jnp.float32(_SQRT_2) * jax.lax.erf_inv(2.0 * uniform - 1.0)


def _words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    data = key if jnp.issubdtype(key.dtype, jnp.uint32) else jax.random.key_data(key)
    if data.shape != (2,):
        raise ValueError(
            f"key: expected one threefry key, got key data of shape {data.shape}; use jax.random.key(seed)"
        )
    return data[0], data[1]
