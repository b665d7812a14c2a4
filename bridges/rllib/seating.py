"""Which agent follows which RLlib module, and how arrays by role become arrays by module and back.

A *group* is a set of agents whose rows are kept in one array: all agents of one module, or, where the mapping changes
from episode to episode (a league), all agents of one role. Belongs here: names and indices. Does not belong here:
anything that is computed from observations.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from bridges.markets import agent_ids, gymnasium_spaces
from jaxarena.core.spaces import Space
from jaxarena.env.env import MarketEnv

#: Episodes with which a mapping function is tried out to see whether it depends on the episode.
_TRIALS = 16


@dataclasses.dataclass(frozen=True)
class Group:
    """Agents of equal spaces whose rows lie one after the other on the agent axis."""

    name: str
    members: tuple[tuple[str, tuple[int, ...]], ...]  # role and the numbers of its agents
    agents: tuple[str, ...]  # their ids, in the same order
    obs_size: int
    action_space: Space

    def join(self, by_role: Mapping[str, jax.Array]) -> jax.Array:
        """Arrays `[N_role, ...]` by role to one `[n, ...]`."""
        return jnp.concatenate([_take(by_role[role], numbers) for role, numbers in self.members])

    def observe(self, obs: Mapping[str, jax.Array]) -> jax.Array:
        """Observations `[N_role, D, ...]` by role to `[D, n, ...]`: features first."""
        return jnp.swapaxes(self.join(obs), 0, 1)


class Seating:
    """The groups of a market under a `policy_mapping_fn`.

    Args:
        env: the market.
        mapping: RLlib's `policy_mapping_fn(agent_id, episode)`.

    Raises:
        ValueError: agents of one module have different spaces.
    """

    def __init__(self, env: MarketEnv, mapping: Callable[..., str]) -> None:
        self.env, self.mapping = env, mapping
        self.ids = agent_ids(env)
        self.agents = tuple(agent for ids in self.ids.values() for agent in ids)
        self._spaces = {role: (env.observation_space(role).size, env.action_space(role)) for role in self.ids}
        trials = [self.modules_of_episode() for _ in range(_TRIALS)]
        self.changes = any(trial != trials[0] for trial in trials)
        self.modules = tuple(dict.fromkeys(module for trial in trials for module in trial.values()))
        for trial in trials:
            groups = self._by_module(trial)  # refuses unequal spaces
        self.groups = self._by_role() if self.changes else groups

    def modules_of_episode(self) -> dict[str, str]:
        """The module of every agent in an episode that begins now."""
        episode = MultiAgentEpisode(agent_to_module_mapping_fn=self.mapping)
        return {agent: episode.module_for(agent) for agent in self.agents}

    def index_of(self, module: str) -> int:
        """Place of a module in `modules`; one that a mapping names for the first time is added."""
        if module not in self.modules:
            self.modules = (*self.modules, module)
        return self.modules.index(module)

    def spread(self, by_group: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Arrays `[n, ...]` by group to `[N_role, ...]` by role; the inverse of `Group.join`."""
        by_role = {}
        for role in self.ids:
            parts: list[jax.Array] = []
            numbers: list[int] = []
            for group in self.groups:
                start = 0
                for member, own in group.members:
                    if member == role:
                        parts.append(by_group[group.name][start : start + len(own)])
                        numbers += own
                    start += len(own)
            by_role[role] = _take(jnp.concatenate(parts), tuple(int(i) for i in np.argsort(numbers)))
        return by_role

    @functools.cached_property
    def observation_spaces(self) -> dict[str, Any]:
        """Gymnasium space of each agent's observation."""
        return gymnasium_spaces(self.env)[0]

    @functools.cached_property
    def action_spaces(self) -> dict[str, Any]:
        """Gymnasium space of each agent's action."""
        return gymnasium_spaces(self.env)[1]

    def _by_role(self) -> tuple[Group, ...]:
        return tuple(self._group(role, [(role, tuple(range(len(ids))))]) for role, ids in self.ids.items())

    def _by_module(self, module_of: Mapping[str, str]) -> tuple[Group, ...]:
        members: dict[str, dict[str, list[int]]] = {}
        for role, ids in self.ids.items():
            for number, agent in enumerate(ids):
                members.setdefault(module_of[agent], {}).setdefault(role, []).append(number)
        return tuple(
            self._group(module, [(role, tuple(numbers)) for role, numbers in roles.items()])
            for module, roles in members.items()
        )

    def _group(self, name: str, members: list[tuple[str, tuple[int, ...]]]) -> Group:
        spaces = {role: self._spaces[role] for role, _ in members}
        first = members[0][0]
        for role, own in spaces.items():
            if own != spaces[first]:
                raise ValueError(
                    f"policy_mapping_fn: the module {name!r} is given to {first!r} with (observation size, action "
                    f"space) {spaces[first]} and to {role!r} with {own}; roles that share a module need equal spaces"
                )
        agents = tuple(self.ids[role][number] for role, numbers in members for number in numbers)
        return Group(name, tuple(members), agents, *spaces[first])


def _take(array: jax.Array, numbers: tuple[int, ...]) -> jax.Array:
    """Rows of an array; the array itself when these are all of them in order."""
    return array if numbers == tuple(range(array.shape[0])) else array[np.asarray(numbers)]
