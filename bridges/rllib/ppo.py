"""Mode `fused`: PPO whose runners send finished train batches, past all of RLlib's connectors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS, PPO
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)


class TrainRows:
    """Finished columns by module, in the place of a list of episodes.

    Args:
        columns: tensors or, from another process, NumPy arrays, `[rows, ...]`, by module and RLlib's column name.
        market_steps: what they come from.
    """

    def __init__(self, columns: dict[str, dict[str, Any]], market_steps: int) -> None:
        self.columns, self.market_steps = columns, market_steps

    def __len__(self) -> int:
        return self.market_steps

    def env_steps(self) -> int:
        """Market steps, as `MultiAgentEpisode.env_steps`."""
        return self.market_steps

    def agent_steps(self) -> int:
        """Rows of all modules."""
        return sum(len(next(iter(columns.values()))) for columns in self.columns.values())


class BatchedPPO(PPO):
    """PPO on `TrainRows`. The runners hold critics too, so all weights are sent to them."""

    def setup(self, config: Any) -> None:
        """As RLlib's; the first weights that it sends lack the critics."""
        super().setup(config)
        self._send_all_weights()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """As RLlib's, and again with the critics."""
        super().restore_from_path(path, *args, **kwargs)
        self._send_all_weights()

    def training_step(self) -> None:
        """Sample, learn, send weights."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            chunks, results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                max_env_steps=self.config.total_train_batch_size,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if not chunks:
                return
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            batch = joined(chunks, self.config.num_learners)
            learned = self.learner_group.update(
                batch=batch,
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
                    ),
                    NUM_MODULE_STEPS_TRAINED_LIFETIME: self.metrics.peek(
                        (LEARNER_RESULTS, ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), default=0
                    ),
                },
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
                num_total_minibatches=self._total_minibatches(batch),
            )
            self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._send_all_weights(set(learned[0].keys()) - {ALL_MODULES})

    def _total_minibatches(self, batch: MultiAgentBatch) -> int:
        """Several learners wait for each other at every minibatch, so their shares must have equally many."""
        learners, size = self.config.num_learners, self.config.minibatch_size
        if learners < 2 or not size:
            return 0
        most = max(len(rows) for rows in batch.policy_batches.values())
        return int(self.config.num_epochs * math.ceil(most / (learners * size)))

    def _send_all_weights(self, modules: set[str] | None = None) -> None:
        if self.env_runner_group is not None and self.learner_group is not None:
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=None if modules is None else list(modules),
                inference_only=False,
            )


def joined(chunks: Sequence[TrainRows], learners: int = 0) -> MultiAgentBatch:
    """The chunks of all runners as one batch of tensors, with a row of every module for each of several learners."""
    modules = dict.fromkeys(module for chunk in chunks for module in chunk.columns)
    batches = {}
    for module in modules:
        parts = [chunk.columns[module] for chunk in chunks if module in chunk.columns]
        columns = {name: _cat([part[name] for part in parts]) for name in parts[0]}
        rows = len(next(iter(columns.values())))
        share = math.ceil(rows / max(1, learners))  # RLlib rounds up, and the last learners get what is left
        if 0 < rows <= share * (learners - 1):  # learners wait for each other in every module
            again = torch.arange(share * learners) % rows
            columns = {name: value[again] for name, value in columns.items()}
        if rows:
            batches[module] = SampleBatch(columns)
    return MultiAgentBatch(batches, env_steps=sum(len(chunk) for chunk in chunks))


def _cat(parts: Sequence[Any]) -> torch.Tensor:
    tensors = [torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part for part in parts]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
