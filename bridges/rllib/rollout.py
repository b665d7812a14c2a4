"""Playing many markets on batched arrays: no object per agent or episode.

Belongs here: the compiled functions that collect rows, and the container that carries them to a learner. Does not
belong here: where weights come from (`policy`, `runner`) and what is learned from the rows (`connectors`).

Rows are kept as the markets make them, time first and market last: `obs [T, D, n, E]`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from bridges.rllib.policy import ModulePolicy, distribution, to_environment
from bridges.rllib.seating import Group, Seating
from jaxarena.core.tree import Record
from jaxarena.env.wrappers import FinalObservations, Markets, MarketsState
from jaxarena.learn import normalize
from jaxarena.learn.normalize import Moments
from jaxarena.learn.rollout import Act, Transition, collect


class Choice(Record):
    """What a group saw and did in one step; arrays of JAX, or of NumPy where torch chose."""

    obs: Any  # [D, n, E] as the module saw it
    actions: Any  # [(k,) n, E] raw, as the distribution gave it
    logits: Any  # [K, n, E] inputs of the action distribution
    logp: Any  # [n, E]
    value: Any  # [n, E], None where no critic is at hand


class Outcome(Record):
    """What came of it."""

    reward: jax.Array  # [n, E]
    terminated: jax.Array  # [n, E] bool
    truncated: jax.Array  # [n, E] bool
    acted: jax.Array  # [n, E] bool; the row of a dead agent is False
    episode_return: jax.Array  # [n, E] of the episode so far
    moments: Moments | None  # [D] of the raw observations acted on


class _Keeping:
    """`Markets` for the collector, with the final observations in the carry."""

    def __init__(self, markets: Markets) -> None:
        self.markets = markets

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        raise NotImplementedError("a rollout goes on from a state")

    def step(self, carry: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        state, kept = carry
        obs, state, kept, *outcome = self.markets.step_keeping(state, kept, action, params)
        reward, terminated, truncated, info = outcome
        return obs, (state, kept), reward, terminated, truncated, info


@dataclasses.dataclass(frozen=True)
class Actions:
    """How raw actions reach the environment: RLlib's settings of the same names."""

    normalize_actions: bool = True
    clip_actions: bool = False


class Collector:
    """Plays `num_markets` markets with one policy per group.

    Args:
        seating: the groups.
        num_markets: E.
        actions: see there.
        observation_clip: bound of normalised observations; None leaves observations as they are.
    """

    #: Whether policies have critics, whose values are recorded.
    records_values = False

    def __init__(
        self, seating: Seating, num_markets: int, actions: Actions, observation_clip: float | None = None
    ) -> None:
        self.seating, self.actions, self.observation_clip = seating, actions, observation_clip
        self.markets = Markets(seating.env, num_markets)
        self.identity: tuple[Any, ...] = (seating.env, seating.groups, num_markets, actions, observation_clip)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.identity == self.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def see(self, group: Group, moments: Mapping[str, Moments], obs: Mapping[str, jax.Array]) -> jax.Array:
        """Observations by role as the group's module sees them, `[D, n, E]`."""
        x = group.observe(obs)
        if self.observation_clip is None:
            return x
        return normalize.normalize(x, moments[group.name], self.observation_clip)

    def see_all(self, moments: Mapping[str, Moments], obs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`see` for every group."""
        return {group.name: self.see(group, moments, obs) for group in self.seating.groups}

    def play(
        self,
        spare: Any,
        policies: Mapping[str, ModulePolicy],
        moments: Mapping[str, Moments],
        state: MarketsState,
        obs: dict[str, jax.Array],
        key: jax.Array,
        params: Any,
        num_steps: int,
        slots: int,
    ) -> tuple[MarketsState, dict[str, jax.Array], dict[str, Any]]:
        """`num_steps` steps in every market, sampling actions in the compiled program.

        Args:
            spare: records of an earlier call that nobody needs any more; donate them, and their memory is used again.
            policies: by group.
            moments: of observations, by group; empty without normalisation. Held fixed, so that the policy that acted
                is the policy that is trained.
            state: of the markets.
            obs: by role.
            key: consumed.
            params: of the markets.
            num_steps: T, static.
            slots: S, for final observations, static.

        Returns:
            State and observations to go on from, and the records: `choice` and `outcome` by group, `cut` and `length`,
            every leaf with a leading axis `[T]`; `final_obs` `[S, D, n, E]` and `last_obs` `[D, n, E]` by group.
        """
        del spare
        act = self.policy(policies, moments)

        def record(step: Transition) -> dict[str, Any]:
            return {"choice": step.extra} | self.record(step)

        carry = (state, FinalObservations.empty(obs, slots))
        (state, kept), obs, records = collect(_Keeping(self.markets), params, act, carry, obs, key, num_steps, record)
        records["last_obs"] = self.see_all(moments, obs)
        records["final_obs"] = self.final(moments, kept)
        return state, obs, records

    def policy(
        self, policies: Mapping[str, ModulePolicy], moments: Mapping[str, Moments], deterministic: bool = False
    ) -> Act:
        """All groups' policies as one function `act(key, obs) -> action, choices by group`, for the collector.

        Args:
            policies: by group.
            moments: of observations, by group; empty without normalisation.
            deterministic: take modes instead of samples.
        """

        def act(key: jax.Array, obs: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, Choice]]:
            choices = {}
            for i, group in enumerate(self.seating.groups):
                x = self.see(group, moments, obs)
                logits = policies[group.name].logits(x)
                chance = distribution(group.action_space, logits)
                raw = chance.mode() if deterministic else chance.sample(jax.random.fold_in(key, i))
                worth = policies[group.name].value(x) if self.records_values else None
                choices[group.name] = Choice(x, raw, logits, chance.log_prob(raw), worth)
            return self.environment_actions({name: choice.actions for name, choice in choices.items()}), choices

        return act

    def step(
        self, raw: Mapping[str, jax.Array], state: MarketsState, kept: FinalObservations, obs: Any, params: Any
    ) -> tuple[MarketsState, FinalObservations, dict[str, jax.Array], dict[str, Any]]:
        """One step with raw actions `[(k,) n, E]` from outside: state, observations by role, and the record."""
        action = self.environment_actions(raw)
        carry = (state, kept)
        next_obs, carry, *outcome = _Keeping(self.markets).step(carry, action, params)
        return *carry, next_obs, self.record(Transition(obs, action, (), carry, next_obs, *outcome))

    def record(self, step: Transition) -> dict[str, Any]:
        """What is kept of a step besides the choices."""
        outcomes = {}
        for group in self.seating.groups:
            acted = group.join(step.info["acted"])
            seen = None
            if self.observation_clip is not None:
                seen = normalize.moments(group.observe(step.obs), acted[None], (1, 2))
            outcomes[group.name] = Outcome(
                reward=group.join(step.reward),
                terminated=group.join(step.terminated),
                truncated=group.join(step.truncated),
                acted=acted,
                episode_return=group.join(step.info["episode"]["return"]),
                moments=seen,
            )
        return {"outcome": outcomes, "cut": step.info["reset"], "length": step.info["episode"]["length"]}

    def final(self, moments: Mapping[str, Moments], kept: FinalObservations) -> dict[str, jax.Array]:
        """Final observations by group as its module sees them, `[S, D, n, E]`."""

        def see(obs: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return self.see_all(moments, obs)

        return jax.vmap(see)(kept.obs)

    def environment_actions(self, raw: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Raw actions `[(k,) n, E]` by group to actions `[N_role, (k,) E]` by role."""
        by_group = {}
        for group in self.seating.groups:
            action = to_environment(
                group.action_space, raw[group.name], self.actions.normalize_actions, self.actions.clip_actions
            )
            by_group[group.name] = jnp.swapaxes(action, 0, 1) if action.ndim > 2 else action
        return self.seating.spread(by_group)


class Programs(NamedTuple):
    """Compiled functions of a collector."""

    reset: Any
    play: Any  # consumes the spare records and the state
    step: Any  # consumes the state and what is kept
    see: Any
    final: Any


@functools.lru_cache(maxsize=32)
def compiled(collector: Collector) -> Programs:
    """Compile a collector's functions; equal collectors of a process share them."""
    return Programs(
        reset=jax.jit(collector.markets.reset),
        play=jax.jit(collector.play, static_argnums=(7, 8), donate_argnums=(0, 3), keep_unused=True),
        step=jax.jit(collector.step, donate_argnums=(1, 2)),
        see=jax.jit(collector.see_all),
        final=jax.jit(collector.final),
    )


@dataclasses.dataclass
class GroupRows:
    """Rows of one group in a rollout, NumPy arrays."""

    obs: np.ndarray  # [T, D, n, E]
    actions: np.ndarray  # [T, (k,) n, E]
    logits: np.ndarray  # [T, K, n, E]
    logp: np.ndarray  # [T, n, E]
    reward: np.ndarray  # [T, n, E]
    terminated: np.ndarray  # [T, n, E]
    acted: np.ndarray  # [T, n, E]
    last_obs: np.ndarray  # [D, n, E] after the rollout
    final_obs: np.ndarray  # [C, D, n] before the resets at the time limit
    module: np.ndarray | None = None  # [T, n, E] index into `RolloutBatch.modules`; None: the group's name

    def of_markets(self, low: int, high: int, resets: np.ndarray) -> "GroupRows":
        """The rows of a range of markets, whose resets are at these places."""
        arrays = {name: value[..., low:high] for name, value in vars(self).items() if value is not None}
        return GroupRows(**arrays | {"final_obs": self.final_obs[resets]})


class _Share:
    """As much of a `SingleAgentEpisode` as `LearnerGroup` asks for when it counts minibatches."""

    def __init__(self, rows: int, module_id: str) -> None:
        self.rows, self.module_id = rows, module_id

    def __len__(self) -> int:
        return self.rows


class RolloutBatch(MultiAgentEpisode):
    """A whole rollout in the place of a list of episodes.

    RLlib's sampling and learner group ask an episode for no more than its length, its slices and the length of each
    agent's part, so that stock PPO takes this without a change. It can be cut by whole markets, which is how several
    learners share it.

    Args:
        groups: rows by group.
        agents: ids of each group's agents.
        cut: `[T, E]` bool, the market was reset after this step.
        reset_t: `[C]` step of each reset at the time limit, from which a learner bootstraps.
        reset_e: `[C]` market of it.
        modules: names that `GroupRows.module` refers to.
    """

    def __init__(
        self,
        groups: dict[str, GroupRows],
        agents: dict[str, tuple[str, ...]],
        cut: np.ndarray,
        reset_t: np.ndarray,
        reset_e: np.ndarray,
        modules: tuple[str, ...],
    ) -> None:
        # Not the base class's: it would make a buffer for every agent.
        self.groups, self.agents, self.modules = groups, agents, modules
        self.cut, self.reset_t, self.reset_e = cut, reset_t, reset_e
        self.id_ = "rollout"

    def __len__(self) -> int:
        return int(self.cut.size)

    def env_steps(self) -> int:
        """Market steps, as `MultiAgentEpisode.env_steps`."""
        return len(self)

    def agent_steps(self) -> int:
        """Decisions of living agents."""
        return sum(int(rows.acted.sum()) for rows in self.groups.values())

    @property
    def agent_episodes(self) -> dict[str, _Share]:
        """Rows of each agent, or of each module where agents change theirs."""
        shares: dict[str, _Share] = {}
        for name, rows in self.groups.items():
            if rows.module is None:
                per_agent = rows.acted.sum((0, 2))
                pairs = zip(self.agents[name], per_agent, strict=True)
                shares |= {agent: _Share(int(count), name) for agent, count in pairs}
            else:
                counts = np.bincount(rows.module[rows.acted], minlength=len(self.modules))
                shares |= {
                    f"{name}:{module}": _Share(int(count), module)
                    for module, count in zip(self.modules, counts, strict=True)
                    if count
                }
        return shares

    def slice(self, slice_: Any, **_: Any) -> "RolloutBatch":
        """A range of whole markets, given in market steps.

        Raises:
            ValueError: the range cuts a market's steps apart.
        """
        steps, markets = self.cut.shape
        low, high, _step = slice_.indices(steps * markets)
        if low % steps or high % steps:
            raise ValueError(
                f"a rollout of {markets} markets cannot be shared out at step {low}..{high}; choose "
                "num_envs_per_env_runner * num_env_runners as a multiple of num_learners"
            )
        low, high = low // steps, high // steps
        here = (self.reset_e >= low) & (self.reset_e < high)
        groups = {name: rows.of_markets(low, high, here) for name, rows in self.groups.items()}
        cut = self.cut[:, low:high]
        return RolloutBatch(groups, self.agents, cut, self.reset_t[here], self.reset_e[here] - low, self.modules)

    def __getitem__(self, slice_: Any) -> "RolloutBatch":
        return self.slice(slice_)

    def __reduce__(self) -> tuple[Any, ...]:
        return RolloutBatch, (self.groups, self.agents, self.cut, self.reset_t, self.reset_e, self.modules)

    def __repr__(self) -> str:
        steps, markets = self.cut.shape
        return f"RolloutBatch({steps} steps, {markets} markets, groups {', '.join(self.groups)})"
