"""The host's side of training: compile once, run chunks, log, save, and go on after an interruption bit for bit.

What a chunk does depends on the configuration and the last state alone; the clock decides only when states are saved.
A run that was killed therefore repeats what came after its last checkpoint exactly, and its records with it.

Belongs here: the loop around the compiled learner. Does not belong here: learning (`jaxarena.learn`), judging what
was learned (`evaluate`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.experiment.checkpoint import CheckpointError, Checkpoints
from jaxarena.experiment.config import ExperimentConfig
from jaxarena.experiment.files import replacing
from jaxarena.experiment.markets import build_market
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import JsonlTracker, ProgressTracker, Trackers, read_jsonl
from jaxarena.learn.groups import PolicyState
from jaxarena.learn.policy_file import write_policy
from jaxarena.learn.ppo import PPO, TrainState


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come; saved with every checkpoint."""

    chunks: int = 0
    agent_steps: int = 0  # decisions that learned agents really took, all seeds together
    wall_s: float = 0.0  # spent in the loop, sessions of a resumed run added up, compilation apart
    compile_s: float = 0.0

    def as_summary(self) -> dict[str, Any]:
        """The `train` part of `summary.json`."""
        rate = self.agent_steps / self.wall_s if self.wall_s else None
        return {
            "agent_steps": self.agent_steps,
            "agent_steps_per_s": rate,
            "wall_s": self.wall_s,
            "compile_s": self.compile_s,
        }


class Trainer:
    """A market and its learner, compiled for one configuration.

    With several seeds every array of the state and of the metrics has a leading axis `[S]`.

    Raises:
        ValueError: as `build_market` and `PPO`.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.env, self.params = build_market(config, "train")
        self.ppo = PPO(self.env, self.params, config.groups, config.ppo, config.train.markets)
        updates = max(1, math.ceil(config.train.agent_steps / self.ppo.agent_steps_per_update))
        self.num_chunks = math.ceil(updates / config.train.updates_per_chunk)
        self.updates_per_chunk = math.ceil(updates / self.num_chunks)  # equal chunks compile once; rounds up

    @property
    def steps_per_chunk(self) -> int:
        """Agent steps of one seed in one chunk."""
        return self.updates_per_chunk * self.ppo.agent_steps_per_update

    @property
    def state_template(self) -> TrainState:
        """Shapes and dtypes of the state."""
        state: TrainState = jax.eval_shape(self._init, self.params)
        return state

    def init(self) -> TrainState:
        """The state before the first update; the same every time."""
        state: TrainState = jax.jit(self._init)(self.params)
        return state

    def compile_chunk(self) -> Callable[[TrainState], tuple[TrainState, dict[str, Any]]]:
        """The compiled chunk, which consumes its argument: next state, and metrics `[U]` (or `[S, U]`) on the host."""
        total = jnp.float32(self.num_chunks * self.updates_per_chunk)
        compiled = jax.jit(self._chunk, donate_argnums=0).lower(self.state_template, self.params, total).compile()

        def chunk(state: TrainState) -> tuple[TrainState, dict[str, Any]]:
            state, metrics = compiled(state, self.params, total)
            return state, jax.device_get(metrics)

        return chunk

    def _init(self, params: Any) -> TrainState:
        keys = [jax.random.key(self.config.seed + i) for i in range(self.config.seeds)]
        if len(keys) == 1:
            return self.ppo.init(keys[0], params)
        state: TrainState = jax.vmap(self.ppo.init, (0, None))(jnp.stack(keys), params)
        return state

    def _chunk(self, state: TrainState, params: Any, total: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        def chunk(state: TrainState, params: Any) -> tuple[TrainState, dict[str, Any]]:
            return self.ppo.update_chunk(state, params, self.updates_per_chunk, total)

        if self.config.seeds == 1:
            return chunk(state, params)
        result: tuple[TrainState, dict[str, Any]] = jax.vmap(chunk, (0, None))(state, params)
        return result


def train(
    trainer: Trainer,
    folder: RunFolder,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    stream: IO[str] | None = None,
) -> tuple[TrainState, Position, bool]:
    """Train to the end, or to the first chunk after which `should_stop` says so.

    The first state is saved too, so that a run without any checkpoint is one that lost them, or had not begun.

    Args:
        trainer: of the run's configuration.
        folder: where records and checkpoints go.
        resume: go on from the last checkpoint.
        should_stop: asked after every chunk; the state is saved before returning.
        stream: where progress is shown, by default standard error.

    Returns:
        The state, how far it came, and whether that is the end.

    Raises:
        CheckpointError: checkpoints that cannot be written, are lost or damaged.
        OSError: records cannot be written.
    """
    config = trainer.config
    checkpoints = Checkpoints(folder.checkpoints, config.train.keep_checkpoints)
    state, position = _restore(trainer, folder, checkpoints) if resume else (None, Position())
    if state is not None and position.chunks == trainer.num_chunks:
        return state, position, True
    begun = time.perf_counter()
    if state is None:
        state = trainer.init()
        checkpoints.save(0, state, dataclasses.asdict(position))
    chunk = trainer.compile_chunk()
    position = dataclasses.replace(position, compile_s=position.compile_s + time.perf_counter() - begun)

    step, total = position.chunks * trainer.steps_per_chunk, trainer.num_chunks * trainer.steps_per_chunk
    shown = tuple(f"return/{role}" for role in trainer.env.learned_roles)
    progress = ProgressTracker(total, step, shown, stream)
    started = saved = time.perf_counter()
    before_s, stopped = position.wall_s, False
    with Trackers(JsonlTracker(folder.metrics, step), progress) as trackers:
        while position.chunks < trainer.num_chunks and not stopped:
            state, metrics = chunk(state)
            step += trainer.steps_per_chunk
            trackers.log(step, record_of(metrics))
            now = time.perf_counter()
            position = dataclasses.replace(
                position,
                chunks=position.chunks + 1,
                agent_steps=position.agent_steps + int(metrics["agent_steps"].sum(dtype=np.int64)),
                wall_s=before_s + now - started,
            )
            stopped = should_stop()
            if stopped or position.chunks == trainer.num_chunks or now - saved >= config.train.checkpoint_every_s:
                checkpoints.save(step, state, dataclasses.asdict(position))
                saved = time.perf_counter()
    return state, position, position.chunks == trainer.num_chunks


def restore_trained(trainer: Trainer, folder: RunFolder) -> tuple[TrainState, Position]:
    """The last saved state of a run.

    Raises:
        CheckpointError: there is none, or it does not fit.
    """
    checkpoints = Checkpoints(folder.checkpoints, trainer.config.train.keep_checkpoints)
    _, state, extra = checkpoints.restore(trainer.state_template)
    return state, Position(**extra)


def policies_of(state: TrainState) -> dict[str, PolicyState]:
    """What each group needs to act."""
    return {name: group.policy for name, group in state.groups.items()}


def write_policies(trainer: Trainer, path: Path, state: TrainState) -> None:
    """Write what was learned as a file of its own, for `jaxarena.load_policy`."""
    layouts = {role: trainer.env.observation_layout(role) for role in trainer.env.learned_roles}
    with replacing(path) as file:
        write_policy(file, trainer.ppo.groups, policies_of(state), layouts, trainer.config.seeds)


def record_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """One line of `metrics.jsonl` from the metrics of a chunk: means over its updates, a list where there are seeds.

    Returns of episodes are averaged over the episodes that ended; None where none did.
    """
    episodes = np.asarray(metrics["episodes"], np.float64)
    record: dict[str, Any] = {}
    for role, values in metrics["role"].items():
        record[f"return/{role}"] = _weighted(values["episode_return"], episodes)
        record[f"reward/{role}"] = np.mean(values["reward"], axis=-1, dtype=np.float64)
    for group, values in metrics["group"].items():
        record |= {f"{name}/{group}": np.mean(value, axis=-1, dtype=np.float64) for name, value in values.items()}
    record["episodes"] = episodes.sum(axis=-1)
    record["episode_length"] = _weighted(metrics["episode_length"], episodes)
    record["lr"] = np.mean(metrics["lr"], axis=-1, dtype=np.float64)
    return record


def _weighted(values: Any, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis, nan without weight."""
    total = weights.sum(axis=-1)
    mean = (np.asarray(values, np.float64) * weights).sum(axis=-1) / np.maximum(total, 1.0)
    return np.where(total > 0, mean, np.nan)


def _restore(trainer: Trainer, folder: RunFolder, checkpoints: Checkpoints) -> tuple[TrainState | None, Position]:
    """The last saved state; None for a run that was cut off before it saved anything."""
    if checkpoints.steps():
        return restore_trained(trainer, folder)
    if records := read_jsonl(folder.metrics):
        raise CheckpointError(
            f"{folder.metrics} records {records[-1]['step']:,} steps, but {folder.checkpoints} holds no checkpoint to "
            "go on from; put the checkpoints back, or start a new run with the folder's config.yaml"
        )
    return None, Position()
