"""A finished rollout on the host: what goes to the learner, and what is counted.

Belongs here: reading the records of `rollout.Collector`. Does not belong here: making them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bridges.rllib.filters import merge_steps
from bridges.rllib.metrics import StepCounts
from bridges.rllib.rollout import GroupRows, RolloutBatch
from bridges.rllib.seating import Seating
from jaxarena.learn.normalize import Moments


class Episode(NamedTuple):
    """An episode that came to an end."""

    length: int
    agents: dict[str, float]  # return by agent
    modules: dict[str, float]  # return by module
    agent_steps: dict[str, int]


class Played:
    """Records of a rollout.

    Args:
        seating: the groups.
        records: of `Collector.play`, or of its steps stacked.
        seats: index of the module of every row, `[T, n, E]` by group; None where a group is a module.
    """

    def __init__(
        self, seating: Seating, records: Mapping[str, Any], seats: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.seating, self.records, self._seats = seating, records, seats
        self._outcome = {name: jax.tree.map(np.asarray, one) for name, one in records["outcome"].items()}
        self._cut = np.asarray(records["cut"])  # [T, E]

    @property
    def market_steps(self) -> int:
        """Steps of all markets."""
        return int(self._cut.size)

    @property
    def num_finished(self) -> int:
        """Episodes that came to an end."""
        return int(self._cut.sum())

    def agent_counts(self) -> dict[str, int]:
        """Decisions of each agent."""
        counts: dict[str, int] = {}
        for group in self.seating.groups:
            per_agent = self._outcome[group.name].acted.sum((0, 2))
            counts |= dict(zip(group.agents, map(int, per_agent), strict=True))
        return counts

    def module_counts(self) -> dict[str, int]:
        """Decisions of each module."""
        if self._seats is None:
            return {name: int(one.acted.sum()) for name, one in self._outcome.items()}
        modules = self.seating.modules
        counts = np.zeros(len(modules), np.int64)
        for name, one in self._outcome.items():
            counts += np.bincount(self._seats[name][one.acted], minlength=len(modules))
        return dict(zip(modules, counts.tolist(), strict=True))

    def moments(self) -> dict[str, Moments]:
        """Moments of the observations that were seen, by group."""
        return {name: merge_steps(one.moments) for name, one in self._outcome.items()}

    def batch(self) -> RolloutBatch:
        """What mode `rollout` sends to the learner."""
        at_limit = np.any([one.truncated.any(1) for one in self._outcome.values()], axis=0)  # [T, E]
        reset_t, reset_e = np.nonzero(at_limit)
        slot = (np.cumsum(at_limit, axis=0) - 1)[reset_t, reset_e]
        groups = {}
        for group in self.seating.groups:
            choice, outcome = self.records["choice"][group.name], self._outcome[group.name]
            final = np.asarray(self.records["final_obs"][group.name])  # [S, D, n, E]
            groups[group.name] = GroupRows(
                obs=np.asarray(choice.obs),
                actions=np.asarray(choice.actions),
                logits=np.asarray(choice.logits),
                logp=np.asarray(choice.logp),
                reward=outcome.reward,
                terminated=outcome.terminated,
                acted=outcome.acted,
                last_obs=np.asarray(self.records["last_obs"][group.name]),
                final_obs=final[slot, :, :, reset_e],
                module=None if self._seats is None else self._seats[group.name],
            )
        agents = {group.name: group.agents for group in self.seating.groups}
        return RolloutBatch(groups, agents, self._cut, reset_t, reset_e, self.seating.modules)

    def finished(self, counts: Mapping[str, StepCounts], most: int) -> Iterator[Episode]:
        """The last `most` episodes that came to an end; `counts`, by group, go on through the rollout."""
        steps = {name: counts[name].finished(one.acted, self._cut) for name, one in self._outcome.items()}
        lengths = np.asarray(self.records["length"])
        when, where = np.nonzero(self._cut)
        for i in range(max(0, len(when) - most), len(when)):
            t, market = when[i], where[i]
            agents: dict[str, float] = {}
            modules: dict[str, float] = {}
            agent_steps: dict[str, int] = {}
            for group in self.seating.groups:
                returns = self._outcome[group.name].episode_return[t, :, market].tolist()
                agents |= dict(zip(group.agents, returns, strict=True))
                agent_steps |= dict(zip(group.agents, steps[group.name][i].tolist(), strict=True))
                for module, value in zip(self._modules_at(group.name, t, market, len(returns)), returns, strict=True):
                    modules[module] = modules.get(module, 0.0) + value
            yield Episode(int(lengths[t, market]), agents, modules, agent_steps)

    def _modules_at(self, group: str, t: int, market: int, agents: int) -> list[str]:
        if self._seats is None:
            return [group] * agents
        return [self.seating.modules[index] for index in self._seats[group][t, :, market]]
