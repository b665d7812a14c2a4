"""Asking torch modules for actions, all rows of a module at once, and who sits at which module.

Belongs here: any stateless `RLModule`, and mappings that change from episode to episode. Does not belong here: copies
of modules in JAX (`policy`).
"""

from typing import Any

import jax
import numpy as np
import torch
from ray.rllib.core.columns import Columns

from bridges.rllib.rollout import Choice
from bridges.rllib.seating import Group, Seating


class TorchPolicies:
    """The modules of a runner, and the seats of all agents.

    Args:
        seating: the groups.
        num_markets: E.
        device: of the modules.
    """

    def __init__(self, seating: Seating, num_markets: int, device: Any) -> None:
        self.seating, self.num_markets, self.device = seating, num_markets, device
        #: Index of every agent's module, `[n, E]` by group; empty where a group is a module.
        self.seats: dict[str, np.ndarray] = {}
        if seating.changes:
            self.seats = {group.name: np.zeros((len(group.agents), num_markets), np.int16) for group in seating.groups}
            self.seat(np.ones(num_markets, bool))

    def seat(self, begun: np.ndarray) -> None:
        """Ask the mapping who sits where in the markets, `[E]` bool, in which an episode begins."""
        self.seats = {name: seats.copy() for name, seats in self.seats.items()}
        for market in np.flatnonzero(begun):
            chosen = self.seating.modules_of_episode()
            for group in self.seating.groups:
                row = [self.seating.index_of(chosen[agent]) for agent in group.agents]
                self.seats[group.name][:, market] = row

    def choose(self, modules: Any, group: Group, obs: jax.Array) -> Choice:
        """What a group's modules choose for observations `[D, n, E]`."""
        size, agents, markets = obs.shape
        # Rows as a transposed view: a linear layer reads it as it is.
        rows = torch.from_dlpack(obs).reshape(size, -1).t().to(self.device)
        if not self.seats:
            found = {name: value.cpu().numpy() for name, value in _ask(modules[group.name], rows).items()}
        else:
            found = self._ask_all(modules, self.seats[group.name].reshape(-1), rows)
        shaped = {name: _features_first(value, agents, markets) for name, value in found.items()}
        actions = shaped[Columns.ACTIONS]
        if np.issubdtype(actions.dtype, np.integer):
            actions = actions.astype(np.int32)
        logits, logp = shaped[Columns.ACTION_DIST_INPUTS], shaped[Columns.ACTION_LOGP]
        return Choice(np.asarray(obs), actions, logits, logp, None)

    def _ask_all(self, modules: Any, seats: np.ndarray, rows: torch.Tensor) -> dict[str, np.ndarray]:
        """Each module for the rows of the agents that sit at it."""
        found: dict[str, np.ndarray] = {}
        for index in np.unique(seats):
            here = seats == index
            answers = _ask(modules[self.seating.modules[index]], rows[torch.from_numpy(here)])
            for name, answer in answers.items():
                values = answer.cpu().numpy()
                found.setdefault(name, np.empty((len(rows), *values.shape[1:]), values.dtype))[here] = values
        return found


def _ask(module: Any, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Actions, distribution inputs and log-probabilities of a module for rows `[B, D]`."""
    outputs = module.forward_exploration({Columns.OBS: rows})
    logits = outputs[Columns.ACTION_DIST_INPUTS]
    chance = module.get_exploration_action_dist_cls().from_logits(logits)
    actions = outputs[Columns.ACTIONS] if Columns.ACTIONS in outputs else chance.sample()
    logp = outputs[Columns.ACTION_LOGP] if Columns.ACTION_LOGP in outputs else chance.logp(actions)
    return {Columns.ACTIONS: actions, Columns.ACTION_DIST_INPUTS: logits, Columns.ACTION_LOGP: logp}


def _features_first(rows: np.ndarray, agents: int, markets: int) -> np.ndarray:
    """`[n * E]` to `[n, E]`, and `[n * E, K]` to `[K, n, E]`."""
    shaped = rows.reshape(agents, markets, *rows.shape[1:])
    return np.moveaxis(shaped, -1, 0) if rows.ndim > 1 else shaped
