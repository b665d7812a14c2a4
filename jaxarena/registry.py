"""Markets by name: presets that come with the package, and those that users register.

A preset is a file `jaxarena/presets/<id>.yaml` with a `market:` and, for replayed prices, a `data:` part; adding a
file adds a preset. Belongs here: names. Does not belong here: building a market (`experiment.markets`). Everything
that takes time to import is imported when it is called.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxarena.env.env import MarketEnv
    from jaxarena.env.state import MarketParams

_FACTORIES: dict[str, "Callable[[], tuple[MarketEnv, MarketParams]]"] = {}


def make(id: str) -> "tuple[MarketEnv, MarketParams]":
    """Build a market by name; replayed prices are those of its training years.

    Args:
        id: one of `registered()`.

    Returns:
        The environment and its parameters: `obs, state = env.reset(key, params)`.

    Raises:
        ValueError: an unknown name; with the nearest one.

    >>> env, params = make("PlantedSignal-v0")
    >>> env.learned_roles
    ('trader',)
    """
    from jaxarena.core.schema import nearest  # noqa: PLC0415 - see the module's text

    if id in _FACTORIES:
        return _FACTORIES[id]()
    if id not in registered():
        raise ValueError(f"unknown market {id!r}; {nearest(id, registered())}")
    from jaxarena.experiment.config import load_config  # noqa: PLC0415
    from jaxarena.experiment.markets import build_market  # noqa: PLC0415

    return build_market(load_config(None, [f"preset={id}"]))


def register(id: str, factory: "Callable[[], tuple[MarketEnv, MarketParams]]") -> None:
    """Give a market a name for `make`, for as long as the program runs.

    Args:
        id: a new name.
        factory: makes the environment and its parameters, such as `lambda: MarketEnv.build(market)`.

    Raises:
        ValueError: the name is taken.
    """
    if id in registered():
        raise ValueError(f"market {id!r} is registered already; choose another name")
    _FACTORIES[id] = factory


def registered() -> list[str]:
    """Names that `make` knows, sorted."""
    from jaxarena.experiment.config import preset_ids  # noqa: PLC0415 - see the module's text

    return sorted([*preset_ids(), *_FACTORIES])
