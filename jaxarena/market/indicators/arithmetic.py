"""The few formulas that several indicators share."""

import jax
import jax.numpy as jnp

from jaxarena.core.reduce import mean
from jaxarena.market.indicators.window import Window


def wilder_rate(seen: jax.Array, period: int) -> jax.Array:
    """Weight of the newest of `seen` inputs, `1 / seen` up to `1 / period`: an average that its own start seeds."""
    return 1.0 / jnp.clip(seen, 1, period).astype(jnp.float32)


def above(lines: jax.Array, window: Window, period: int) -> jax.Array:
    """How far the close lies above price lines [F, A], in typical moves times √period."""
    return (window.close[-1:] - lines) / (window.typical_move() * period**0.5)[None]


def moments(window: Window, period: int) -> tuple[jax.Array, jax.Array]:
    """Mean of the last closes minus the newest one, and their population standard deviation: [A] ticks each."""
    centred = window.centred(window.close, period)
    average = mean(centred)
    return average, jnp.sqrt(mean(jnp.square(centred - average[None])))


def percent(part: jax.Array, whole: jax.Array) -> jax.Array:
    """`100 * part / whole`, and 50 where there is nothing to divide."""
    empty = whole < 1e-14
    return jnp.where(empty, 50.0, 100.0 * part / jnp.where(empty, 1.0, whole))


def log_percent(fraction: jax.Array) -> jax.Array:
    """Logarithm of a fraction in percent, so that 1 % is 0; finite for 0."""
    return jnp.log(jnp.maximum(100.0 * fraction, 1e-6))
