"""RLlib's sampling metrics from whole rollouts: a few calls per rollout instead of several per agent and step."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
)


def log_counts(
    metrics: Any, market_steps: int, episodes: int, agents: Mapping[str, int], modules: Mapping[str, int]
) -> None:
    """Count what was sampled.

    Args:
        metrics: the runner's `MetricsLogger`.
        market_steps: steps of all markets.
        episodes: that came to an end.
        agents: decisions by agent.
        modules: decisions by module.
    """
    metrics.log_value(NUM_ENV_STEPS_SAMPLED, market_steps, reduce="sum")
    metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, market_steps, reduce="lifetime_sum", with_throughput=True)
    metrics.log_value(NUM_EPISODES, episodes, reduce="sum")
    metrics.log_value(NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")
    for name, lifetime, counts in (
        (NUM_AGENT_STEPS_SAMPLED, NUM_AGENT_STEPS_SAMPLED_LIFETIME, agents),
        (NUM_MODULE_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED_LIFETIME, modules),
    ):
        for key, count in counts.items():
            metrics.log_value((name, key), count, reduce="sum")
            metrics.log_value((lifetime, key), count, reduce="lifetime_sum")


class StepCounts:
    """Steps that each agent has taken in the episode that its market is in.

    >>> counts = StepCounts(agents=1, markets=1)
    >>> acted, cut = np.ones((3, 1, 1), bool), np.array([[False], [True], [False]])
    >>> counts.finished(acted, cut).tolist(), counts.so_far.tolist()
    ([[2]], [[1]])
    """

    def __init__(self, agents: int, markets: int) -> None:
        self.so_far = np.zeros((agents, markets), np.int64)

    def finished(self, acted: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """Go on through a rollout.

        Args:
            acted: `[T, n, E]` bool.
            cut: `[T, E]` bool, the episode ended with this step.

        Returns:
            Steps `[episodes, n]` of the episodes that ended, in the order of `np.nonzero(cut)`.
        """
        total = self.so_far + np.cumsum(acted, axis=0, dtype=np.int64)  # since the last end before the rollout
        when, where = np.nonzero(cut)
        steps = total[when, :, where]
        for i, (t, market) in enumerate(zip(when, where, strict=True)):
            earlier = np.flatnonzero(cut[:t, market])
            if earlier.size:
                steps[i] -= total[earlier[-1], :, market]
        self.so_far = total[-1]
        for market in np.flatnonzero(cut.any(0)):
            self.so_far[:, market] -= total[np.flatnonzero(cut[:, market])[-1], :, market]
        return steps
