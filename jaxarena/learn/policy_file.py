"""Trained policies in one small file, for programs that only want to act.

The file is an `.npz` of plain arrays, read without pickle: a header in JSON (groups, roles, spaces, network, layout of
the observations) and the arrays of each group under its name, with a leading axis for seeds. Belongs here: writing,
reading and applying such a file. Does not belong here: training, and where a run keeps its files (`experiment`).
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core import spaces
from jaxarena.core.tree import named_leaves
from jaxarena.learn.distributions import make_head
from jaxarena.learn.groups import Group, PolicyState, act_together
from jaxarena.learn.networks import ActorCritic

#: What the file of a run folder is called.
FILE_NAME = "policy.npz"
_FORMAT, _VERSION = "jaxarena-policy", 1
_HEADER = "__header__"
_SPACES = {"box": spaces.Box, "discrete": spaces.Discrete, "multi_discrete": spaces.MultiDiscrete}
_KINDS = {cls: kind for kind, cls in _SPACES.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """The trained roles of a market, as one pure function of key and observations.

    `policy(key, obs)` works under `jit`, `vmap` and `scan`. It draws the numbers that the trainer would draw for the
    same key and the same observations.
    """

    groups: tuple[Group, ...]
    states: dict[str, PolicyState]  # by group
    layouts: dict[str, dict[str, slice]]  # role to the place of each block in its observation

    def __call__(
        self, key: jax.Array, obs: Mapping[str, jax.Array], deterministic: bool = False
    ) -> dict[str, jax.Array]:
        """Actions by role.

        Args:
            key: consumed; not used by a deterministic policy.
            obs: `[N, D]` or, with markets last, `[N, D, E]` by role, as the environment gives them. `N` need not be
                the number of agents in training, and roles may be left out.
            deterministic: take the likeliest action (the mean of a continuous one) instead of a sample.

        Returns:
            `[N]` or `[N, numbers]`, and the market axis, by role.

        Raises:
            ValueError: no observation of a known role, an unknown role, or another size of observation.
        """
        groups = self._present(obs)
        return act_together(groups, self.states, key, obs, deterministic)[0]

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles that it can play."""
        return tuple(role for group in self.groups for role in group.roles)

    def action_space(self, role: str) -> spaces.Space:
        """What one agent of a role chooses from."""
        return self._group(role).head.space

    def observation_size(self, role: str) -> int:
        """Numbers that one agent of a role sees."""
        return self._group(role).obs_size

    def observation_layout(self, role: str) -> dict[str, slice]:
        """Where each block stands in the role's observation."""
        self._group(role)
        return self.layouts[role]

    def _group(self, role: str) -> Group:
        for group in self.groups:
            if role in group.roles:
                return group
        raise ValueError(f"unknown role {role!r}; this policy plays {', '.join(self.roles)}")

    def _present(self, obs: Mapping[str, jax.Array]) -> tuple[Group, ...]:
        """The groups, cut to the roles and agents that were passed in."""
        for role, seen in obs.items():
            wanted = self._group(role).obs_size
            if seen.ndim not in (2, 3) or seen.shape[1] != wanted:
                raise ValueError(
                    f"obs[{role!r}]: got the shape {tuple(seen.shape)}, wanted [agents, {wanted}] or "
                    f"[agents, {wanted}, markets]"
                )
        if not obs:
            raise ValueError(f"obs: no role given; this policy plays {', '.join(self.roles)}")
        groups = []
        for group in self.groups:
            roles = tuple(role for role in group.roles if role in obs)
            counts = tuple(obs[role].shape[0] for role in roles)
            groups.append(dataclasses.replace(group, roles=roles, counts=counts))
        return tuple(groups)


def write_policy(
    file: IO[bytes],
    groups: tuple[Group, ...],
    states: Mapping[str, PolicyState],
    layouts: Mapping[str, Mapping[str, slice]],
    seeds: int = 1,
) -> None:
    """Write trained policies.

    Args:
        file: open for writing.
        groups: of the learner.
        states: by group; with a leading axis `[S]` where there are several seeds.
        layouts: role to the place of each block in its observation.
        seeds: S.
    """
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "seeds": seeds,
        "groups": [_describe(group) for group in groups],
        "layouts": {role: {k: [v.start, v.stop] for k, v in layout.items()} for role, layout in layouts.items()},
    }
    arrays: dict[str, np.ndarray] = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for group in groups:
        for name, leaf in named_leaves(states[group.name]):
            array = np.asarray(leaf)
            arrays[f"{group.name}/{name}"] = array if seeds > 1 else array[None]
    np.savez(file, allow_pickle=False, **arrays)


def load_policy(path: str | Path, seed: int = 0) -> Policy:
    """Read the trained policies of a run.

    Args:
        path: a run folder, or the file `policy.npz` from one.
        seed: which of the run's seeds, counted from 0.

    Raises:
        ValueError: no such file, not a policy, a damaged one, one of a newer version, or no such seed.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    header, arrays = _read(path)
    if not 0 <= seed < header["seeds"]:
        raise ValueError(f"seed: got {seed}, but {path} holds {header['seeds']} seed(s), counted from 0")
    try:
        groups = tuple(_group_of(description) for description in header["groups"])
        states = {group.name: _state_of(group, arrays, seed) for group in groups}
        layouts = {r: {k: slice(*v) for k, v in layout.items()} for r, layout in header["layouts"].items()}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: damaged, {error!r} does not fit its header; export the policy again") from error
    return Policy(groups, states, layouts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and all arrays of a file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; give a finished run's folder, or its {FILE_NAME}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: not a policy file, or a damaged one ({error})") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a policy file; a finished run's {FILE_NAME} is one")
    if header.get("version") != _VERSION:
        raise ValueError(
            f"{path}: written in version {header.get('version')} of the format, this program reads {_VERSION}; "
            "update jaxarena"
        )
    return header, arrays


def _describe(group: Group) -> dict[str, Any]:
    space = group.head.space
    return {
        "name": group.name,
        "roles": group.roles,
        "counts": group.counts,
        "obs_size": group.obs_size,
        "space": {"kind": _KINDS[type(space)]} | dataclasses.asdict(space),
        "hidden": group.network.hidden,
        "activation": group.network.activation,
        "observation_clip": group.observation_clip,
    }


def _group_of(description: Mapping[str, Any]) -> Group:
    space = dict(description["space"])
    cls = _SPACES[space.pop("kind")]
    head = make_head(cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in space.items()}))
    network = ActorCritic(head.num_outputs, head.num_free, tuple(description["hidden"]), description["activation"])
    return Group(
        name=description["name"],
        roles=tuple(description["roles"]),
        counts=tuple(description["counts"]),
        obs_size=description["obs_size"],
        head=head,
        network=network,
        observation_clip=description["observation_clip"],
    )


def _state_of(group: Group, arrays: Mapping[str, np.ndarray], seed: int) -> PolicyState:
    template, leaves = group.template, []
    for name, leaf in named_leaves(template):
        array = arrays[f"{group.name}/{name}"][seed]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise TypeError(f"{group.name}/{name}: {array.dtype}{list(array.shape)}")
        leaves.append(jnp.asarray(array))
    state: PolicyState = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return state
