"""Mode `fused`: rollout, values and advantages in one compiled program, and no learner connector."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from bridges.rllib.rollout import Actions, Collector
from bridges.rllib.rows import RowMajor, rows_of
from bridges.rllib.seating import Group, Seating
from jaxarena.learn import losses


class FusedCollector(Collector):
    """A collector that also values what it sees.

    Args:
        seating: see `Collector`.
        num_markets: see there.
        actions: see there.
        observation_clip: see there.
        discounts: `gamma` and `lambda` by group.
    """

    records_values = True

    def __init__(
        self,
        seating: Seating,
        num_markets: int,
        actions: Actions,
        observation_clip: float | None,
        discounts: Mapping[str, tuple[float, float]],
    ) -> None:
        super().__init__(seating, num_markets, actions, observation_clip)
        self.discounts = discounts
        self.identity += (tuple(sorted(discounts.items())),)

    def play(
        self, spare: Any, policies: Mapping[str, Any], *arguments: Any, **settings: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """As `Collector.play`; the records hold `advantage`, standardised, and `target`, `[T, n, E]` by group."""
        state, obs, records = super().play(spare, policies, *arguments, **settings)
        records["advantage"], records["target"] = {}, {}
        for group in self.seating.groups:
            name = group.name
            advantage, target = self._judge(group, policies[name], records)
            acted = records["outcome"][name].acted
            share = 1.0 / jnp.maximum(acted.sum(), 1).astype(jnp.float32)
            mean = jnp.sum(jnp.where(acted, advantage, 0.0)) * share
            variance = jnp.sum(jnp.where(acted, jnp.square(advantage - mean), 0.0)) * share
            records["advantage"][name] = (advantage - mean) / jnp.maximum(jnp.sqrt(variance), 1e-4)
            records["target"][name] = target
        return state, obs, records

    def _judge(self, group: Group, policy: Any, records: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        """Advantages before they are standardised, and targets of the critic."""
        choice, outcome = records["choice"][group.name], records["outcome"][group.name]
        at_limit = jnp.any(jnp.stack([one.truncated.any(1) for one in records["outcome"].values()]), axis=0)  # [T, E]
        final = records["final_obs"][group.name]  # [S, D, n, E]
        ending = jax.lax.cond(
            at_limit.any(),
            lambda: jax.vmap(policy.value)(final),
            lambda: jnp.zeros((final.shape[0], *final.shape[2:])),
        )
        last = policy.value(records["last_obs"][group.name])
        next_value = jnp.concatenate([choice.value[1:], last[None]])
        slot = jnp.cumsum(at_limit, axis=0) - 1
        for number, value in enumerate(ending):
            here = at_limit & (slot == number)
            next_value = jnp.where(here[:, None], value, next_value)
        cut = outcome.terminated | records["cut"][:, None]
        reward = jnp.where(outcome.acted, outcome.reward, 0.0)
        gamma, decay = self.discounts[group.name]
        advantage = losses.gae(reward, choice.value, next_value, outcome.terminated, cut, gamma, decay)
        return advantage, advantage + choice.value


def train_columns(
    groups: tuple[Group, ...], records: Mapping[str, Any], memory: RowMajor, place: int = 0
) -> dict[str, Any]:
    """Finished columns `[rows, ...]` by module; rows of dead agents are dropped.

    Args:
        groups: of the collector.
        records: of `FusedCollector.play`.
        memory: for observations.
        place: number of the place in it; a call with the same one overwrites these observations.
    """
    out = {}
    for group in groups:
        name = group.name
        choice = records["choice"][name]
        columns = {
            Columns.OBS: memory(f"{place}:{name}", np.asarray(choice.obs)),
            Columns.ACTIONS: rows_of(np.asarray(choice.actions), feature=choice.actions.ndim > 3),
            Columns.ACTION_DIST_INPUTS: rows_of(np.asarray(choice.logits), feature=True),
            Columns.ACTION_LOGP: rows_of(np.asarray(choice.logp), feature=False),
            Postprocessing.ADVANTAGES: rows_of(np.asarray(records["advantage"][name]), feature=False),
            Postprocessing.VALUE_TARGETS: rows_of(np.asarray(records["target"][name]), feature=False),
        }
        real = torch.from_numpy(np.asarray(records["outcome"][name].acted).reshape(-1).copy())
        out[name] = columns if bool(real.all()) else {key: value[real] for key, value in columns.items()}
    return out
