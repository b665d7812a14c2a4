"""Trained policies as a compiled program (StableHLO) that any JAX runs, without this package.

Belongs here: making such a program and checking it against the policy it came from. Does not belong here: files of a
run (`experiment`), the policy's own file (`policy_file`).
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core import spaces
from jaxarena.learn.policy_file import Policy

#: Most by which a number of a continuous action may differ from the policy's own, in widths of its range: two
#: compilations may round exponentials differently.
TOLERANCE = 1e-6
_CHECKED_MARKETS = (1, 7)

Act = Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]


def export_policy(policy: Policy, deterministic: bool = True, platforms: Sequence[str] = ("cpu", "cuda")) -> bytes:
    """Compile a policy for any number of markets.

    The program takes key data (`[2]` uint32, see `jax.random.key_data`) and observations `[N, D, E]` by role, with `N`
    the number of agents in training and any `E`; it returns actions by role. `jax.export.deserialize(data).call` runs
    it.

    Args:
        policy: from `load_policy`.
        deterministic: take the likeliest action instead of a sample.
        platforms: that the program shall run on: `cpu`, `cuda`, `rocm`, `tpu`.

    Raises:
        ValueError: an unknown platform; the package `flatbuffers` is not installed; the program does not act as the
            policy does.
    """
    try:
        importlib.import_module("flatbuffers")  # jax.export serialises with it
    except ImportError as error:
        raise ValueError('exporting needs the package flatbuffers; pip install "jaxarena[export]"') from error
    known = ("cpu", "cuda", "rocm", "tpu")
    for platform in platforms:
        if platform not in known:
            raise ValueError(f"platforms: got {platform!r}, known are {', '.join(known)}")
    (markets,) = jax.export.symbolic_shape("markets")
    program = jax.export.export(jax.jit(_of_key_data(policy, deterministic)), platforms=platforms)
    data = bytes(program(jax.ShapeDtypeStruct((2,), jnp.uint32), _observations(policy, markets)).serialize())
    if jax.default_backend() in platforms:
        _check(policy, data, deterministic)
    return data


def _of_key_data(policy: Policy, deterministic: bool) -> Act:
    return lambda key_data, obs: policy(jax.random.wrap_key_data(key_data), obs, deterministic)


def _observations(policy: Policy, markets: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what the roles see in so many markets, a number or a symbol."""
    return {
        role: jax.ShapeDtypeStruct((count, group.obs_size, markets), jnp.float32)
        for group in policy.groups
        for role, count in zip(group.roles, group.counts, strict=True)
    }


def _check(policy: Policy, data: bytes, deterministic: bool) -> None:
    """Run program and policy on random observations.

    Raises:
        ValueError: they act differently.
    """
    program, own = jax.export.deserialize(bytearray(data)), jax.jit(_of_key_data(policy, deterministic))
    for markets in _CHECKED_MARKETS:
        key_data = jax.random.key_data(jax.random.key(markets))
        obs = {
            role: jax.random.normal(jax.random.fold_in(jax.random.key(0), i), shape.shape)
            for i, (role, shape) in enumerate(_observations(policy, markets).items())
        }
        found, wanted = program.call(key_data, obs), own(key_data, obs)
        for role, action in wanted.items():
            space = policy.action_space(role)
            allowed = TOLERANCE * (space.high - space.low) if isinstance(space, spaces.Box) else 0.0
            difference = float(np.max(np.abs(np.asarray(found[role], np.float64) - np.asarray(action, np.float64))))
            if difference > allowed:
                raise ValueError(f"the exported program acts differently for {role!r}, by {difference:.3g}")
