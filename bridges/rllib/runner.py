"""RLlib's multi-agent EnvRunner on whole markets: one per actor, in the mode that `use_batched` chose.

Belongs here: what RLlib expects of a runner, weights, random streams, and the choice of the path. Does not belong here:
the compiled functions (`rollout`), the fast pieces of the slow path (`connectors`).
"""

import functools
import logging
import math
import secrets
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ray
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.registry import ENV_CREATOR, _global_registry

from bridges.markets import market_key
from bridges.rllib.connectors import ObservationsToModule
from bridges.rllib.fused import FusedCollector, train_columns
from bridges.rllib.metrics import StepCounts, log_counts
from bridges.rllib.options import Options
from bridges.rllib.played import Played
from bridges.rllib.policy import ExportError, ModulePolicy, export
from bridges.rllib.ppo import TrainRows
from bridges.rllib.rollout import Actions, Collector, compiled
from bridges.rllib.rows import RowMajor
from bridges.rllib.seating import Seating
from bridges.rllib.torch_policy import TorchPolicies
from bridges.rllib.vector_env import MarketVectorEnv
from jaxarena.core.draws import fold_in
from jaxarena.env.wrappers import FinalObservations

logger = logging.getLogger("jaxarena.bridges.rllib")


class BatchedMultiAgentEnvRunner(MultiAgentEnvRunner):
    """Samples all markets of an actor together.

    Evaluation, random actions and mode `episodes` go step by step through a `MarketVectorEnv` and make real episodes.
    Otherwise a sample is one rollout of arrays: with the policy in the compiled program where the modules can be
    copied, else with the torch modules.
    """

    def __init__(self, config: Any, **kwargs: Any) -> None:
        self.options = Options.of(config)
        if kwargs.get("worker_index") and not config.num_gpus_per_env_runner:
            # Ray leaves all GPUs visible to an actor that asked for none, and JAX would take most of their memory.
            jax.config.update("jax_platforms", "cpu")
        super().__init__(config, **kwargs)
        #: Evaluation makes real episodes in every mode.
        self.makes_episodes = self.options.mode == "episodes" or self.config.in_evaluation
        if self.env is not None and not self.makes_episodes:
            self._prepare()

    def make_env(self) -> None:
        """One vector environment for all markets."""
        context = self.config.env_config
        if not isinstance(context, EnvContext):
            context = EnvContext(context, self.worker_index or 0, num_workers=self.config.num_env_runners)
        create = _global_registry.get(ENV_CREATOR, self.config.env)
        env = create(_with_num_envs(context, self.config.num_envs_per_env_runner))
        if not isinstance(env, MarketVectorEnv):
            raise ValueError(f"environment {self.config.env!r} is no market; name one of jaxarena/<id>")
        self.env, self.num_envs = env, env.num_envs
        self._needs_initial_reset = True
        self._rollout_state: Any = None  # of the markets, and observations by role
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env.unwrapped,
                "env_context": context,
            },
        )

    def make_module(self) -> None:
        """As RLlib's; mode `fused` needs the critics here too."""
        if self.options.mode != "fused" or self.env is None:
            super().make_module()
            return
        spec = self.config.get_multi_rl_module_spec(
            env=self.env.unwrapped, spaces=self.get_spaces(), inference_only=False
        )
        self.module = spec.build()

    def set_state(self, state: Any) -> None:
        """As RLlib's; copies of the weights are made anew when they are needed."""
        super().set_state(state)
        self._policies: dict[str, ModulePolicy] | None = None
        self._waiting_samples = 0  # whose rows nobody has learned from yet; new weights say that somebody has

    def _prepare(self) -> None:
        """Everything that is compiled, before the first sample: RLlib waits for a sample for a limited time only."""
        self.seating = Seating(self.env.market, self.config.policy_mapping_fn)
        self.collector = self._make_collector()
        self._programs = compiled(self.collector)
        self.memory = RowMajor()
        self._policies = None
        self._waiting_samples = 0
        self._spare: dict[tuple[int, int], Any] = {}  # records of the last rollout, whose memory the next one takes
        self._samples = 0
        self._length = int(np.min(np.asarray(self.env.params.episode_length)))
        self.policy_backend = self._choose_backend()
        if self.config.batch_mode == "truncate_episodes":
            self._begin()
            self._collect(self.config.get_rollout_fragment_length(self.worker_index))
            self._rollout_state, self._samples = None, 0

    def _make_collector(self) -> Collector:
        actions = Actions(self.config.normalize_actions, self.config.clip_actions)
        arguments = (self.seating, self.num_envs, actions, self.options.observation_clip)
        if self.options.mode != "fused":
            return Collector(*arguments)
        own = {group.name: self.config.get_config_for_module(group.name) for group in self.seating.groups}
        return FusedCollector(*arguments, {name: (config.gamma, config.lambda_) for name, config in own.items()})

    def _choose_backend(self) -> str:
        """`jax` where every module can be copied and stays with its agents, else `torch`.

        Raises:
            ValueError: `jax` was asked for.
        """
        wanted = self.options.policy_backend
        reason = None
        if self.seating.changes:
            reason = "policy_mapping_fn gives agents other modules from episode to episode"
        else:
            try:
                self._policies = self._export()
            except ExportError as error:
                reason = str(error)
        if reason is None and wanted != "torch":
            return "jax"
        if wanted == "jax" or self.options.mode == "fused":
            raise ValueError(
                f"the policy cannot run in JAX: {reason or 'policy_backend is torch'}; use "
                "use_batched(config, mode='rollout', policy_backend='torch')"
            )
        if wanted == "auto":
            logger.info("policies stay in torch: %s", reason)
        return "torch"

    def _export(self, check: bool = True) -> dict[str, ModulePolicy]:
        critic = self.options.mode == "fused"
        return {
            group.name: export(self.module[group.name], group.action_space, group.obs_size, critic, check)
            for group in self.seating.groups
        }

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Any]:
        if self.makes_episodes or num_timesteps is None or random_actions or not explore:
            self._counted = _Counted()
            samples = super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
            self._counted.log(self)
            return samples
        if force_reset or self._rollout_state is None:
            self._begin()
        began = time.perf_counter()
        num_steps = math.ceil(num_timesteps / self.num_envs)
        played = self._collect(num_steps)
        self._log(played, (time.perf_counter() - began) / num_steps)
        if self.options.mode != "fused":
            return [played.batch()]
        columns = train_columns(self.seating.groups, played.records, self.memory, self._waiting_samples)
        self._waiting_samples += 1
        if self.worker_index:
            columns = {module: {name: rows.numpy() for name, rows in own.items()} for module, own in columns.items()}
        return [TrainRows(columns, played.market_steps)]

    def _increase_sampled_metrics(self, num_steps: int, next_obs: Any, episode: Any) -> int:
        """Counts once per sample instead of some calls for every agent and step."""
        self._counted.add(num_steps, next_obs, episode)
        return num_steps

    def _begin(self) -> None:
        """New random streams and first episodes.

        Streams depend on the seed, the actor and on how far training has come, so that a run that was restored, or an
        actor that was killed and came back, does not play its first episodes again.
        """
        seed = secrets.randbits(31) if self._seed is None else int(self._seed)
        key = fold_in(market_key(seed), self.worker_index or 0)
        done = int(self.num_env_steps_sampled_lifetime)
        key = fold_in(key, jnp.uint32(done % 2**32))
        if not done and ray.is_initialized() and _was_reconstructed():
            key = fold_in(key, jnp.uint32(time.time_ns() % 2**32))
        self._key = fold_in(key, 1)
        if self.policy_backend == "torch" and self._seed is not None:
            torch.manual_seed(int(jax.random.bits(fold_in(key, 2), dtype=jnp.uint32)))
        obs, state = self._programs.reset(fold_in(key, 0), self.env.params)
        self._rollout_state = state, obs
        self._step_counts = {g.name: StepCounts(len(g.agents), self.num_envs) for g in self.seating.groups}
        self._torch_policies = TorchPolicies(self.seating, self.num_envs, self._device)

    def _moments(self) -> dict[str, Any]:
        pieces = self._env_to_module[ObservationsToModule]
        return pieces[0].moments.get() if pieces and self.options.observation_clip is not None else {}

    def _collect(self, num_steps: int) -> Played:
        key = fold_in(self._key, self._samples)
        self._samples += 1
        play = self._play_jax if self.policy_backend == "jax" else self._play_torch
        return play(num_steps, 1 + (num_steps - 1) // self._length, key)

    def _play_jax(self, num_steps: int, slots: int, key: jax.Array) -> Played:
        if self._policies is None:
            self._policies = self._export(check=False)
        state, obs = self._rollout_state
        arguments: tuple[Any, ...] = (self._policies, self._moments(), state, obs, key, self.env.params)
        if (num_steps, slots) not in self._spare:
            play = functools.partial(self.collector.play, num_steps=num_steps, slots=slots)
            _, _, shapes = jax.eval_shape(play, (), *arguments)
            self._spare = {(num_steps, slots): jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)}
        state, obs, records = self._programs.play(self._spare[num_steps, slots], *arguments, num_steps, slots)
        self._rollout_state = state, obs
        self._spare[num_steps, slots] = records
        return Played(self.seating, records)

    def _play_torch(self, num_steps: int, slots: int, key: jax.Array) -> Played:
        """Modules in torch, markets in JAX, step by step; torch has a random stream of its own."""
        state, obs = self._rollout_state
        moments, params, torch_policies = self._moments(), self.env.params, self._torch_policies
        kept = FinalObservations.empty(obs, slots)
        steps: list[Any] = []
        seats: list[dict[str, np.ndarray]] = []
        with torch.inference_mode():
            for _ in range(num_steps):
                seen = self._programs.see(moments, obs)
                choice = {
                    group.name: torch_policies.choose(self.module, group, seen[group.name])
                    for group in self.seating.groups
                }
                seats.append(torch_policies.seats)
                raw = {name: one.actions for name, one in choice.items()}
                state, kept, obs, record = self._programs.step(raw, state, kept, obs, params)
                steps.append({"choice": choice} | jax.device_get(record))
                if self.seating.changes and steps[-1]["cut"].any():
                    torch_policies.seat(steps[-1]["cut"])
        self._rollout_state = state, obs
        records = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
        records |= {"last_obs": self._programs.see(moments, obs), "final_obs": self._programs.final(moments, kept)}
        if not self.seating.changes:
            return Played(self.seating, records)
        return Played(self.seating, records, {name: np.stack([step[name] for step in seats]) for name in seats[0]})

    def _log(self, played: Played, seconds_per_step: float) -> None:
        """RLlib's metrics of a rollout, and the moments of what was seen."""
        log_counts(
            self.metrics,
            played.market_steps,
            played.num_finished,
            played.agent_counts(),
            played.module_counts(),
        )
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=played.market_steps)
        window = math.ceil(self.config.metrics_num_episodes_for_smoothing / (self.config.num_env_runners or 1))
        for episode in played.finished(self._step_counts, max(1, window)):
            self._log_episode_metrics(
                episode.length,
                sum(episode.agents.values()),
                episode.length * seconds_per_step,
                episode.agents,
                episode.modules,
                episode.agent_steps,
            )
        if self.options.observation_clip is not None:
            self._env_to_module[ObservationsToModule][0].moments.add(played.moments())


class _Counted:
    """Steps of a sample that was taken through episodes."""

    def __init__(self) -> None:
        self.market_steps, self.episodes = 0, 0
        self.agents: dict[str, int] = {}
        self.modules: dict[str, int] = {}

    def add(self, market_steps: int, obs: Mapping[str, Any], episode: Any) -> None:
        """Count one step of one market."""
        self.market_steps += market_steps
        self.episodes += episode.is_done
        for agent in obs:
            module = episode.module_for(agent)
            self.agents[agent] = self.agents.get(agent, 0) + 1
            self.modules[module] = self.modules.get(module, 0) + 1

    def log(self, runner: BatchedMultiAgentEnvRunner) -> None:
        """Report the counts."""
        log_counts(runner.metrics, self.market_steps, self.episodes, self.agents, self.modules)


def _with_num_envs(context: EnvContext, num_envs: int) -> EnvContext:
    """The context that asks a creator for a vector environment, as RLlib's single-agent runner does."""
    return EnvContext(dict(context) | {"num_envs": num_envs}, context.worker_index, num_workers=context.num_workers)


def _was_reconstructed() -> bool:
    """Whether this is an actor that died and was started again."""
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return False
    with warnings.catch_warnings():  # Ray's own property reads one that it has deprecated
        warnings.filterwarnings("ignore", "Use get_actor_id", DeprecationWarning)
        return bool(context.was_current_actor_reconstructed)
