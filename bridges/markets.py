"""What every bridge shares: markets by name, names for single agents, compiled stepping, missing packages.

Belongs here: what does not depend on the ecosystem on the other side. Does not belong here: any of its classes;
they are imported by the bridge that needs them.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxarena
from jaxarena.core.spaces import Box, Discrete, Space
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets, MarketsState

#: A market: one of `jaxarena.registered()`, or an environment with its parameters.
MarketLike = str | tuple[MarketEnv, MarketParams]


def load_market(market: MarketLike) -> tuple[MarketEnv, MarketParams]:
    """The environment and parameters that are meant; a name is built once per process.

    Raises:
        ValueError: an unknown name; with the nearest one.
    """
    return _made(market) if isinstance(market, str) else market


@functools.cache
def _made(name: str) -> tuple[MarketEnv, MarketParams]:
    return jaxarena.make(name)


def agent_ids(env: MarketEnv) -> dict[str, tuple[str, ...]]:
    """Names of the agents of each learned role, in their order: `maker_000`, zero-padded so that sorting keeps it.

    >>> env, _ = load_market("PlantedSignal-v0")
    >>> agent_ids(env)["trader"][:2]
    ('trader_000', 'trader_001')
    """
    ids = {}
    for role in env.learned_roles:
        count = env.num_agents(role)
        width = max(3, len(str(count - 1)))
        ids[role] = tuple(f"{role}_{number:0{width}d}" for number in range(count))
    return ids


def role_of(agent_id: str) -> str:
    """The role of an agent: its name up to the last underscore."""
    return agent_id.rpartition("_")[0]


def gymnasium_space(space: Space) -> Any:
    """The `gymnasium.spaces` equal of a space of one agent."""
    spaces = require("gymnasium.spaces", "gymnasium")
    if isinstance(space, Box):
        return spaces.Box(space.low, space.high, (space.size,), np.float32)
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    return spaces.MultiDiscrete(space.sizes)


def gymnasium_spaces(env: MarketEnv) -> tuple[dict[str, Any], dict[str, Any]]:
    """Observation and action space of each agent by its name; agents of one role share theirs."""
    observation: dict[str, Any] = {}
    action: dict[str, Any] = {}
    for role, ids in agent_ids(env).items():
        observation |= dict.fromkeys(ids, gymnasium_space(env.observation_space(role)))
        action |= dict.fromkeys(ids, gymnasium_space(env.action_space(role)))
    return observation, action


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name.
        extra: the extra of this package that installs it.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}); install it with: pip install 'jaxarena[{extra}]'"
        ) from error


class Stepper(NamedTuple):
    """Compiled functions of a batch of markets; the market axis is the last one of every array."""

    reset: Callable[[jax.Array, MarketParams], tuple[ByRole, MarketsState]]
    step: Callable[[MarketsState, ByRole, MarketParams], tuple[Any, ...]]  # consumes the state
    restart: Callable[[MarketsState, MarketParams], tuple[ByRole, MarketsState]]  # next episode everywhere


@functools.lru_cache(maxsize=64)
def compiled(env: MarketEnv, num_markets: int) -> Stepper:
    """`Markets.reset`, `step` and `restart` for `num_markets` markets, compiled once per process and size."""
    markets = Markets(env, num_markets)
    return Stepper(jax.jit(markets.reset), jax.jit(markets.step, donate_argnums=0), jax.jit(markets.restart))


def idle_actions(env: MarketEnv, num_markets: int) -> dict[str, np.ndarray]:
    """An action for every agent, `[N_role, ..., E]`, to be filled in; those of dead agents are ignored."""
    return {role: np.zeros(shape, dtype) for role, shape, dtype in _action_shapes(env, num_markets)}


@functools.lru_cache(maxsize=64)
def _action_shapes(env: MarketEnv, num_markets: int) -> tuple[tuple[str, tuple[int, ...], np.dtype], ...]:
    sample = jax.eval_shape(Markets(env, num_markets).sample_actions, jax.random.key(0))
    return tuple((role, leaf.shape, np.dtype(leaf.dtype)) for role, leaf in sample.items())


def market_key(seed: int) -> jax.Array:
    """The base key of all random streams of a batch."""
    return jax.random.key(jnp.uint32(seed % 2**32))
