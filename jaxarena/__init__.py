"""Markets full of learning agents that trade against each other, stepped by one pure JAX function.

>>> import jaxarena
>>> env, params = jaxarena.make("Gbm-v0")
"""

from typing import TYPE_CHECKING, Any

from jaxarena.registry import make, register, registered

if TYPE_CHECKING:
    from jaxarena.learn.policy_file import load_policy

__all__ = ["load_policy", "make", "register", "registered"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_policy`, which needs Flax, is imported when it is asked for."""
    if name == "load_policy":
        from jaxarena.learn.policy_file import load_policy  # noqa: PLC0415

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
