"""Markets under names that RLlib knows: `jaxarena/<id>`."""

import functools
import uuid
from collections.abc import Callable
from typing import Any

from ray.tune.registry import ENV_CREATOR, _global_registry, register_env

import jaxarena
from bridges.markets import MarketLike, load_market
from bridges.rllib.vector_env import MarketMultiAgentEnv, MarketVectorEnv

PREFIX = "jaxarena/"
_CREATORS: dict[str, Any] = {}  # by RLlib's name, as this process registered them


def register_market(id: str, factory: Callable[[], MarketLike] | None = None) -> str:
    """Make a market known to RLlib, in this process and in every actor that it starts.

    Args:
        id: of the market; RLlib's name is `jaxarena/<id>`.
        factory: makes the environment and its parameters; it is pickled and sent to the actors. None stands for
            `jaxarena.make(id)`.

    Returns:
        RLlib's name.
    """
    name = f"{PREFIX}{id}"
    _CREATORS[name] = functools.partial(_create, uuid.uuid4().hex, factory or functools.partial(load_market, id))
    register_env(name, _CREATORS[name])
    return name


def register_all() -> None:
    """Register every market of `jaxarena.registered()`, and all others again that Ray forgot when it was shut down."""
    for id in jaxarena.registered():
        if f"{PREFIX}{id}" not in _CREATORS:
            register_market(id)
    for name, creator in _CREATORS.items():
        if not _global_registry.contains(ENV_CREATOR, name):
            register_env(name, creator)


def market_of(name: str) -> MarketLike:
    """The market that RLlib knows by a name; unknown ones are looked up with `jaxarena.make`.

    Raises:
        ValueError: no market has this name; with the nearest one.
    """
    register_all()
    if not _global_registry.contains(ENV_CREATOR, name):
        load_market(name.removeprefix(PREFIX))
        register_market(name.removeprefix(PREFIX))
    create = _global_registry.get(ENV_CREATOR, name)
    return _build_once(*create.args)


def _create(token: str, factory: Callable[[], MarketLike], context: Any) -> Any:
    """A vector environment for a context with `num_envs`, as in RLlib's single-agent runner, else one market."""
    market = _build_once(token, factory)
    if "num_envs" in context:
        return MarketVectorEnv(market, context["num_envs"])
    return MarketMultiAgentEnv(market)


_BUILT: dict[str, MarketLike] = {}


def _build_once(token: str, factory: Callable[[], MarketLike]) -> MarketLike:
    """A process builds, and so compiles, each market once, however many environments it makes of it."""
    if token not in _BUILT:
        _BUILT[token] = factory()
    return _BUILT[token]
