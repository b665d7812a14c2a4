"""Proximal policy optimisation of all policy groups of a market, as one compiled function.

Belongs here: the configuration, the training state and the update. Does not belong here: files,
clocks, logging (`jaxarena.experiment`). `PPO.init` and `PPO.update_chunk` are pure: compile them
once outside with `jax.jit`, map them over seeds with `jax.vmap`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

from jaxarena.core.checks import expect_range
from jaxarena.core.tree import Record
from jaxarena.learn import losses, normalize
from jaxarena.learn.groups import Choice, Group, PolicyState, act_together, make_groups
from jaxarena.learn.minibatches import Plan, make_plan
from jaxarena.learn.networks import Activation
from jaxarena.learn.rollout import Act, BatchedMarkets, Transition, collect, values_where

#: Rows per chunk of a minibatch on a CPU: the activations of a 2 x 64 network stay in the cache.
_CPU_CHUNK_ROWS = 512


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of the learner; the defaults suit markets of a few dozen features."""

    lr: float = 3e-4
    anneal_lr: bool = True  # linearly to zero at the last update
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    clip_value: bool = True  # bound the critic's move by clip_eps as well
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-5
    rollout_length: int = 128
    epochs: int = 4
    minibatches: int = 4
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    normalize_observations: bool = True
    observation_clip: float = 10.0
    normalize_rewards: bool = True
    reward_clip: float = 10.0
    chunk_rows: int | None = None  # rows whose gradient is computed at once; None: as suits the device

    def validate(self, where: str = "ppo") -> None:
        """Check every value once, on the host.

        Raises:
            ValueError: names the setting, what was got and what is allowed.
        """
        tiny, huge = 1e-12, 1e12
        bounds = {
            "lr": (0.0, 1.0),
            "gamma": (0.0, 1.0),
            "gae_lambda": (0.0, 1.0),
            "clip_eps": (tiny, 1.0),
            "vf_coef": (0.0, huge),
            "ent_coef": (0.0, huge),
            "max_grad_norm": (tiny, huge),
            "adam_eps": (tiny, 1.0),
            "rollout_length": (1, huge),
            "epochs": (1, huge),
            "minibatches": (1, huge),
            "hidden": (1, huge),
            "observation_clip": (tiny, huge),
            "reward_clip": (tiny, huge),
        }
        for name, (low, high) in bounds.items():
            expect_range(f"{where}.{name}", getattr(self, name), low, high)
        if not self.hidden:
            raise ValueError(f"{where}.hidden: got no layer, at least one is needed; for example [64, 64]")
        if self.activation not in ("tanh", "relu"):
            raise ValueError(f"{where}.activation: got {self.activation!r}, known: relu, tanh")
        if self.chunk_rows is not None:
            expect_range(f"{where}.chunk_rows", self.chunk_rows, 1, huge)


class GroupState(Record):
    """What a policy group learned, and what it needs to go on learning."""

    policy: PolicyState
    opt_state: Any
    reward_scale: normalize.RewardScale


class TrainState(Record):
    """Everything that the next update depends on, arrays only: saved and restored, training goes on bit for bit."""

    groups: dict[str, GroupState]
    markets: Any  # carry of the markets
    obs: dict[str, jax.Array]  # [N_role, D_role, E]
    key: jax.Array  # key data; update u uses fold_in(key, u)
    update: jax.Array  # [] int32, updates done


class Rows(Record):
    """What a group learns from, with leading axis `[T]` after a rollout."""

    choice: Choice
    reward: jax.Array  # [N, E]
    terminated: jax.Array  # [N, E] bool
    cut: jax.Array  # [N, E] bool
    acted: jax.Array  # [N, E] bool, real data
    reset: jax.Array  # [E] bool
    final_value: jax.Array  # [N, E] of the observation before the reset, where it is needed
    obs_moments: normalize.Moments  # [D]


class Batch(Record):
    """Rows ready for the loss: leaves `[T, N, E]`, or `[T, X, N, E]` where a row has X numbers."""

    obs: jax.Array
    raw: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    acted: jax.Array


class PPO:
    """The learner for one environment and one map of policies.

    Args:
        env: an environment of the package's contract.
        params: its parameters; only the spaces are read from them.
        policies: group name to roles; None gives every learned role its own.
        config: settings, validated here.
        num_markets: E, markets stepped together per seed.
        make_markets: builds the batch of markets; `jaxarena.env.wrappers.Markets` by default.

    Raises:
        ValueError: settings out of range, roles that do not fit, minibatches that do not divide the rollout.
    """

    def __init__(
        self,
        env: Any,
        params: Any,
        policies: Mapping[str, Sequence[str]] | None,
        config: PPOConfig,
        num_markets: int,
        make_markets: Callable[[Any, int], BatchedMarkets] | None = None,
    ) -> None:
        config.validate()
        expect_range("num_markets", num_markets, 1, 1e9)
        if make_markets is None:
            from jaxarena.env.wrappers import Markets  # noqa: PLC0415  (any other batch does as well)

            make_markets = Markets
        clip = config.observation_clip if config.normalize_observations else None
        self.config = config
        self.num_markets = num_markets
        self.markets = make_markets(env, num_markets)
        self.groups: tuple[Group, ...] = make_groups(env, params, policies, config.hidden, config.activation, clip)
        on_cpu = jax.default_backend() == "cpu"
        chunk_rows = config.chunk_rows or (_CPU_CHUNK_ROWS if on_cpu else 2**30)
        self._plans: dict[str, Plan] = {
            group.name: make_plan(config.rollout_length, group.num_agents, num_markets, config.minibatches, chunk_rows)
            for group in self.groups
        }
        # One flat vector of parameters makes the optimiser a handful of operations.
        self._optimizer = optax.flatten(
            optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps))
        )

    @property
    def agent_steps_per_update(self) -> int:
        """Rows of all groups in one update, real or not."""
        return self.config.rollout_length * self.num_markets * sum(group.num_agents for group in self.groups)

    def init(self, key: jax.Array, params: Any) -> TrainState:
        """Fresh networks, statistics and markets. key: consumed."""
        key_markets, key_groups, key_train = jax.random.split(key, 3)
        groups = {}
        for i, group in enumerate(self.groups):
            policy = group.init(jax.random.fold_in(key_groups, i))
            groups[group.name] = GroupState(
                policy=policy,
                opt_state=self._optimizer.init(policy.params),
                reward_scale=normalize.init_reward_scale((group.num_agents, self.num_markets)),
            )
        obs, carry = self.markets.reset(key_markets, params)
        return TrainState(groups, carry, obs, jax.random.key_data(key_train), jnp.int32(0))

    def policy(self, policies: Mapping[str, PolicyState], deterministic: bool = False) -> Act:
        """The groups' joint policy as a pure function `act(key, obs) -> action, choices`, for the collector.

        Args:
            policies: state by group, `{name: state.groups[name].policy}`.
            deterministic: take modes instead of samples.
        """

        def act(key: jax.Array, obs: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, Choice]]:
            return act_together(self.groups, policies, key, obs, deterministic)

        return act

    def update_chunk(
        self, state: TrainState, params: Any, num_updates: int, total_updates: jax.Array | int
    ) -> tuple[TrainState, dict[str, Any]]:
        """Do `num_updates` updates, each one rollout and `epochs x minibatches` optimiser steps per group.

        Args:
            state: donate it where this is compiled.
            params: of the environment.
            num_updates: how many, static.
            total_updates: of the whole run; the learning rate reaches zero there.

        Returns:
            The new state, and metrics with a leading axis `[num_updates]` (see `_metrics`).
        """

        def step(state: TrainState, _: None) -> tuple[TrainState, dict[str, Any]]:
            return self._update(state, params, jnp.asarray(total_updates, jnp.float32))

        return jax.lax.scan(step, state, None, num_updates)

    def _update(self, state: TrainState, params: Any, total_updates: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.update)
        key_rollout, key_shuffle = jax.random.split(key)
        policies = {name: group.policy for name, group in state.groups.items()}

        def record(step: Transition) -> tuple[dict[str, Rows], dict[str, Any]]:
            return self._rows(policies, step), _episodes(step.info)

        carry, obs, (rows, episodes) = collect(
            self.markets,
            params,
            self.policy(policies),
            state.markets,
            state.obs,
            key_rollout,
            self.config.rollout_length,
            record,
        )
        lr = jnp.float32(self.config.lr)
        if self.config.anneal_lr:
            lr = lr * jnp.maximum(1.0 - state.update.astype(jnp.float32) / total_updates, 0.0)
        groups, learning = {}, {}
        for i, group in enumerate(self.groups):
            last_value = group.value(policies[group.name], group.observe(obs))
            key_group = jax.random.fold_in(key_shuffle, i)
            groups[group.name], learning[group.name] = self._learn(
                group, state.groups[group.name], rows[group.name], last_value, lr, key_group
            )
        metrics = self._metrics(rows, episodes) | {"group": learning, "lr": lr}
        return TrainState(groups, carry, obs, state.key, state.update + 1), metrics

    def _rows(self, policies: Mapping[str, PolicyState], step: Transition) -> dict[str, Rows]:
        """What each group keeps of one step."""
        reset = step.info["reset"]
        rows = {}
        for group in self.groups:
            policy = policies[group.name]
            acted, terminated = group.join(step.info["acted"]), group.join(step.terminated)
            cut = terminated | group.join(step.truncated) | reset[None]
            needed = jnp.any(acted & ~terminated & reset[None], axis=0)
            final_obs = group.observe(step.info["final_observation"])
            width = max(1, self.num_markets // 32)
            final_value = values_where(needed, final_obs, functools.partial(group.value, policy), width)
            seen = group.observe(step.obs) if self.config.normalize_observations else jnp.zeros((1, *acted.shape))
            rows[group.name] = Rows(
                choice=step.extra[group.name],
                reward=jnp.where(acted, group.join(step.reward), 0.0),
                terminated=terminated,
                cut=cut,
                acted=acted,
                reset=reset,
                final_value=final_value,
                obs_moments=normalize.moments(seen, acted[None], (1, 2)),
            )
        return rows

    def _learn(
        self, group: Group, state: GroupState, rows: Rows, last_value: jax.Array, lr: jax.Array, key: jax.Array
    ) -> tuple[GroupState, dict[str, jax.Array]]:
        """Improve one group by its rows of one rollout."""
        config = self.config
        policy, reward_scale, reward = state.policy, state.reward_scale, rows.reward
        if config.normalize_rewards:
            reward_scale = normalize.update_reward_scale(reward_scale, reward, rows.acted, rows.cut, config.gamma)
            reward = normalize.scale_reward(reward, reward_scale, config.reward_clip)
        later = jnp.concatenate([rows.choice.value[1:], last_value[None]])
        next_value = jnp.where(rows.reset[:, None], rows.final_value, later)
        value = rows.choice.value
        advantage = losses.gae(reward, value, next_value, rows.terminated, rows.cut, config.gamma, config.gae_lambda)
        batch = Batch(
            obs=rows.choice.obs,
            raw=rows.choice.raw,
            log_prob=rows.choice.log_prob,
            value=value,
            advantage=losses.normalize_advantage(advantage, rows.acted),
            target=advantage + value,
            acted=rows.acted,
        )
        network_params, opt_state, sums = self._optimize(group, policy.params, state.opt_state, batch, lr, key)
        stats = policy.obs_stats
        if config.normalize_observations:
            stats = normalize.merge_all(stats, rows.obs_moments)
        explained = losses.explained_variance(value, batch.target, rows.acted)
        learned = GroupState(PolicyState(network_params, stats), opt_state, reward_scale)
        return learned, sums | {"explained_variance": explained}

    def _optimize(
        self, group: Group, params: Any, opt_state: Any, batch: Batch, lr: jax.Array, key: jax.Array
    ) -> tuple[Any, Any, dict[str, jax.Array]]:
        """All epochs over the batch; returns parameters, optimiser state and mean diagnostics."""
        plan = self._plans[group.name]
        keys = jax.random.split(key, self.config.epochs)
        numbers = jax.vmap(plan.shuffle)(keys).reshape(-1, plan.chunks, plan.blocks)
        gradient = jax.grad(functools.partial(self._loss, group), has_aux=True)

        def minibatch(state: tuple[Any, Any], numbers: jax.Array) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
            params, opt_state = state
            real = jnp.sum(plan.take(batch.acted, numbers.reshape(-1)))
            weight = 1.0 / jnp.maximum(real, 1).astype(jnp.float32)

            def chunk(total: Any, numbers: jax.Array) -> tuple[Any, None]:
                part = gradient(params, plan.take(batch, numbers), weight)
                return jax.tree.map(jnp.add, total, part), None

            shapes = jax.eval_shape(gradient, params, plan.take(batch, numbers[0]), weight)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            (grads, diagnostics), _ = jax.lax.scan(chunk, zeros, numbers)
            with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
                updates, opt_state = self._optimizer.update(grads, opt_state, params)
            params = jax.tree.map(lambda value, update: value - lr * update, params, updates)
            return (params, opt_state), diagnostics | {"grad_norm": optax.tree.norm(grads)}

        (params, opt_state), diagnostics = jax.lax.scan(minibatch, (params, opt_state), numbers)
        return params, opt_state, jax.tree.map(jnp.mean, diagnostics)

    def _loss(
        self, group: Group, params: Any, batch: Batch, weight: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of one chunk: sums over its real rows times `weight`, one over the real rows of the minibatch."""
        config = self.config
        outputs, free, value = group.apply(params, batch.obs)
        distribution = group.head.distribution(outputs, free)
        log_ratio = distribution.relative_log_prob(batch.raw) - batch.log_prob
        clip_value = config.clip_eps if config.clip_value else None

        def mean(rows: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(batch.acted, rows, 0.0)) * weight

        policy_loss = mean(losses.policy_loss(log_ratio, batch.advantage, config.clip_eps))
        value_loss = mean(losses.value_loss(value, batch.value, batch.target, clip_value))
        entropy = mean(distribution.entropy())
        loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy
        return loss, {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": mean(losses.approx_kl(log_ratio)),
            "clip_fraction": mean(losses.is_clipped(log_ratio, config.clip_eps)),
        }

    def _metrics(self, rows: Mapping[str, Rows], episodes: Mapping[str, Any]) -> dict[str, Any]:
        """Means per role over real rows and over the episodes that ended; zero where there are none."""
        count = jnp.sum(episodes["count"])
        share = 1.0 / jnp.maximum(count, 1).astype(jnp.float32)
        role = {}
        for group in self.groups:
            group_rows = rows[group.name]
            reward, acted = group.split(group_rows.reward, 1), group.split(group_rows.acted, 1)
            for name in group.roles:
                role[name] = {
                    "reward": losses.masked_mean(reward[name], acted[name]),
                    "episode_return": jnp.sum(episodes["return"][name]) * share,
                }
        return {
            "role": role,
            "episodes": count,
            "episode_length": jnp.sum(episodes["length"]) * share,
            "agent_steps": sum(jnp.sum(group_rows.acted) for group_rows in rows.values()),
        }


def _episodes(info: Mapping[str, Any]) -> dict[str, Any]:
    """Sums over the markets that ended an episode on this step; returns are means over a role's agents."""
    reset, episode = info["reset"], info["episode"]
    returns = {
        role: jnp.sum(jnp.where(reset, jnp.mean(value, axis=0), 0.0)) for role, value in episode["return"].items()
    }
    length = jnp.sum(jnp.where(reset, episode["length"], 0)).astype(jnp.float32)
    return {"count": jnp.sum(reset), "length": length, "return": returns}
