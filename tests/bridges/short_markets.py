"""Markets of short episodes for the tests of several bridges, each built once."""

import functools

import jax.numpy as jnp

from bridges.markets import load_market
from tests.env import test_endings as crash


@functools.cache
def market(name):
    """A preset with episodes of twelve steps, or two crashes in ten steps.

    In `crashing` the agents are `bold_000`, `bold_001` and `wary_000`, with a scripted one between them.
    """
    if name == "crashing":
        batch, params = crash.markets()
        return batch.env, params
    env, params = load_market(name)
    return env, params.replace(episode_length=jnp.int32(12))
