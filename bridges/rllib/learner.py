"""PPO learners that read rollouts and deal out minibatches by index.

RLlib's own minibatches have one size for all modules, so that a module with few rows is trained on them many times
while the largest one is trained once: with 1 maker among 100 takers a hundred times. Here every module sees its rows
`num_epochs` times, in as many steps as the largest module needs.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from bridges.rllib.connectors import RolloutToTrainBatch


class FastPPOTorchLearner(PPOTorchLearner):
    """RLlib's PPO learner with proportional minibatches, gathered from tensors that never leave the device."""

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: Any,
        num_total_minibatches: int = 0,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **kwargs: Any,
    ) -> Any:
        if training_data.data_iterators or any(module.is_stateful() for module in self.module.values()):
            return super()._create_iterator_if_necessary(
                training_data=training_data,
                num_total_minibatches=num_total_minibatches,
                num_epochs=num_epochs,
                minibatch_size=minibatch_size,
                shuffle_batch_per_epoch=shuffle_batch_per_epoch,
                **kwargs,
            )
        batch = self._make_batch_if_necessary(training_data=training_data)
        for module_id in list(batch.policy_batches):
            if not self.should_module_be_updated(module_id, batch):
                del batch.policy_batches[module_id]
        return ProportionalMinibatches(
            batch, num_epochs, minibatch_size, num_total_minibatches, shuffle_batch_per_epoch
        )


class RolloutPPOTorchLearner(FastPPOTorchLearner):
    """The learner of mode `rollout`: its one connector turns rollouts into train batches."""

    def build(self) -> None:
        """As RLlib's, then put the connector in."""
        super().build()
        if self._learner_connector is not None:
            self._learner_connector.append(RolloutToTrainBatch(self.config))


#: A module with few rows has minibatches of about so many: RLlib reports a variance over them.
_FEW = 8


class ProportionalMinibatches:
    """Splits of each module's rows into the same number of minibatches, anew for every epoch.

    A module with few rows takes part in the first minibatches only. Where several learners wait for each other, every
    module takes part in all of them, and the rows of one that has fewer than there are minibatches are used again.

    Args:
        batch: tensors by module.
        num_epochs: passes over the rows.
        minibatch_size: most rows of a module in one minibatch; None for one minibatch of all rows.
        num_total_minibatches: how many to give in all, when several learners must agree; 0 for as many as needed.
        shuffle: deal rows out at random.
    """

    def __init__(
        self,
        batch: MultiAgentBatch,
        num_epochs: int,
        minibatch_size: int | None,
        num_total_minibatches: int = 0,
        shuffle: bool = True,
    ) -> None:
        # Sorted: several learners add up gradients module by module, in the order of the batch.
        # Plain dictionaries: a SampleBatch runs Python for every access.
        self._columns = {
            module: {name: value for name, value in rows.items() if isinstance(value, torch.Tensor)}
            for module, rows in sorted(batch.policy_batches.items())
        }
        self._rows = {module: len(next(iter(columns.values()))) for module, columns in self._columns.items()}
        most = max(self._rows.values(), default=0)
        per_epoch = math.ceil(most / minibatch_size) if minibatch_size else 1
        self._together = num_total_minibatches > 0
        if self._together:
            per_epoch = max(1, math.ceil(num_total_minibatches / num_epochs))
        self._few = min(_FEW, minibatch_size or _FEW)
        self._epochs, self._per_epoch, self._shuffle = num_epochs, per_epoch, shuffle
        self._env_steps = max(1, batch.env_steps() // max(1, per_epoch))

    def __iter__(self) -> Iterator[MultiAgentBatch]:
        for _ in range(self._epochs if self._rows else 0):
            parts = {module: self._parts(module) for module in self._columns}
            for number in range(self._per_epoch):
                minibatch = {
                    module: SampleBatch(
                        {name: value.index_select(0, own[number]) for name, value in self._columns[module].items()}
                    )
                    for module, own in parts.items()
                    if number < len(own)
                }
                if minibatch:
                    yield MultiAgentBatch(minibatch, env_steps=self._env_steps)

    def _parts(self, module: str) -> list[torch.Tensor]:
        """Row numbers of one module for each of its minibatches of an epoch."""
        rows, columns = self._rows[module], self._columns[module]
        device = next(iter(columns.values())).device
        order = torch.randperm(rows, device=device) if self._shuffle else torch.arange(rows, device=device)
        if self._together:
            if 0 < rows < self._per_epoch:
                order = order.repeat(math.ceil(self._per_epoch * self._few / rows))
            count = self._per_epoch if rows else 0
        else:
            count = min(self._per_epoch, math.ceil(rows / self._few))
        return [order[len(order) * i // count : len(order) * (i + 1) // count] for i in range(count)]
