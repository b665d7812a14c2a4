"""Markets as RLlib's environments: one alone, and many in one compiled call.

`MarketMultiAgentEnv` is what RLlib's checker and stock runner take; `MarketVectorEnv` gives the same dictionaries for
all markets of a runner. Belongs here: dictionaries by agent and RLlib's order of events. Does not belong here: rollouts
that do without dictionaries (`rollout`).
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv

from bridges.markets import (
    MarketLike,
    agent_ids,
    compiled,
    gymnasium_spaces,
    idle_actions,
    load_market,
    market_key,
)
from jaxarena.core.tree import where
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketParams, MarketState
from jaxarena.env.wrappers import Markets, MarketsState

ByAgent = dict[str, Any]


class MarketMultiAgentEnv(MultiAgentEnv):
    """One market; an agent that goes bankrupt is reported once as terminated and is absent afterwards.

    Args:
        market: a name, or an environment with its parameters.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - RLlib writes into it

    def __init__(self, market: MarketLike) -> None:
        self._env, self._params = load_market(market)
        _describe_agents(self, self._env)
        super().__init__()
        self._stepper = compiled(self._env, 1)
        self._rows = {role: self._env.agent_slice(role) for role in self._env.learned_roles}
        self._scale = float(self._params.quanta_per_unit)
        self._state: MarketsState | None = None
        self._first: ByRole | None = None  # of an episode that has begun but was not shown yet

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ByAgent, ByAgent]:
        """Begin an episode: the first of new random streams for a seed, else the next one of the old streams."""
        if seed is not None or self._state is None:
            key = market_key(secrets.randbits(31) if seed is None else seed)
            obs, self._state = self._stepper.reset(key, self._params)
        elif self._first is not None:
            obs = self._first
        else:
            obs, self._state = self._stepper.restart(self._state, self._params)
        self._first = None
        self.agents = list(self.possible_agents)
        rows = jax.device_get(obs)
        return {agent: rows[role][i, :, 0] for agent, role, i in self._everybody()}, {}

    def step(self, action_dict: Mapping[str, Any]) -> tuple[ByAgent, ByAgent, ByAgent, ByAgent, ByAgent]:
        """One bar. The actions of agents that are absent or dead are ignored."""
        if self._state is None or self._first is not None:
            raise ValueError("step: the episode has not begun or is over; call reset first")
        actions: dict[str, Any] = dict(idle_actions(self._env, 1))
        for agent, role, i in self._everybody():
            if agent in action_dict:
                actions[role][i, ..., 0] = action_dict[agent]
        obs, self._state, reward, terminated, truncated, info = self._stepper.step(self._state, actions, self._params)
        told = (reward, terminated, truncated, info["final_observation"], info["acted"], info["equity"], info["reset"])
        reward, terminated, truncated, final, acted, equity, reset = jax.device_get(told)
        over = bool(reset[0])
        self._first = obs if over else None
        seen, rewards, dead, infos, at_limit = {}, {}, {}, {}, False
        for agent, role, i in self._everybody():
            if acted[role][i, 0]:
                seen[agent] = final[role][i, :, 0]
                rewards[agent] = float(reward[role][i, 0])
                dead[agent] = bool(terminated[role][i, 0])
                at_limit |= bool(truncated[role][i, 0])
                infos[agent] = {"equity": float(equity[self._rows[role]][i, 0]) / self._scale}
        self.agents = list(seen)  # RLlib's checker looks for the dead of this step, too
        # Not each agent at the limit: RLlib 2.60 takes an episode whose agents are all done for a terminated one,
        # and its learner would not bootstrap.
        late = dict.fromkeys(seen, False) | {"__all__": over and at_limit}
        return seen, rewards, dead | {"__all__": over and not at_limit}, late, infos

    def render(self) -> Any:
        """The market in a few lines of text."""
        if self._state is None:
            return "not reset yet"
        return describe_market(self._env, self._params, self._state.market, 0)

    def _everybody(self) -> Iterator[tuple[str, str, int]]:
        for role, ids in agent_ids(self._env).items():
            for i, agent in enumerate(ids):
                yield agent, role, i


class MarketVectorEnv(VectorMultiAgentEnv):
    """All markets of a runner in one compiled call per step, with the dictionaries that RLlib expects.

    Auto-reset is Gymnasium's `NEXT_STEP`: the step that ends an episode shows its final observation, and the next step
    ignores the actions of that market and shows the first observation of the next episode.

    Args:
        market: a name, or an environment with its parameters.
        num_envs: E.
    """

    metadata = {"render_modes": ["ansi"], "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, market: MarketLike, num_envs: int) -> None:
        self.market, self.params = load_market(market)
        self.num_envs = num_envs
        self.ids = agent_ids(self.market)
        self.agents = tuple(agent for ids in self.ids.values() for agent in ids)
        self.envs = _Views(self)
        self.single_observation_spaces = dict(self.envs[0].observation_spaces)
        self.single_action_spaces = dict(self.envs[0].action_spaces)
        self.single_observation_space = gymnasium.spaces.Dict(self.single_observation_spaces)
        self.single_action_space = gymnasium.spaces.Dict(self.single_action_spaces)
        self._reset, self._restart, self._step = _compiled_next_step(self.market, num_envs)
        self._state: _NextStep | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[ByAgent], list[ByAgent]]:
        """Begin an episode in every market; a seed begins new random streams."""
        if seed is not None or self._state is None:
            key = market_key(secrets.randbits(31) if seed is None else int(seed))
            rows, self._state = self._reset(key, self.params)
        else:
            rows, self._state = self._restart(self._state, self.params)
        self.rows = jax.device_get(rows)
        self.acting = {role: np.ones((self.num_envs, len(ids)), bool) for role, ids in self.ids.items()}
        everybody = np.ones((self.num_envs, len(self.agents)), bool)
        return self._dicts(self._joined(self.rows), everybody), [{} for _ in range(self.num_envs)]

    def step(self, actions: Any) -> tuple[list[ByAgent], ...]:
        """One bar in every market that is not waiting for its next episode.

        Args:
            actions: a dictionary of actions by agent for each market, or arrays `[E, N_role, ...]` by role.
        """
        if self._state is None:
            raise ValueError("step: the markets have not been reset; call reset first")
        by_role = actions if isinstance(actions, dict) else self._arrays(actions)
        rows, told, self._state = self._step(self._state, by_role, self.params)
        self.rows, told = jax.device_get((rows, told))
        present, over = self._joined(told["acted"]), told["over"]
        self.acting = told["acts_next"]
        dead = self._joined(told["terminated"])
        obs = self._dicts(self._joined(self.rows), present)
        rewards = self._dicts(self._joined(told["reward"]).tolist(), present)
        terminateds, truncateds = self._dicts(dead.tolist(), present), []
        for i, (ended, at_limit) in enumerate(zip(over.tolist(), told["at_limit"].tolist(), strict=True)):
            # As in `MarketMultiAgentEnv`: no agent by itself is truncated.
            truncateds.append(dict.fromkeys(terminateds[i], False) | {"__all__": ended and at_limit})
            terminateds[i]["__all__"] = ended and not at_limit
        equities = self._joined(told["equity"]).tolist()
        infos = self._dicts([[{"equity": value} for value in row] for row in equities], present)
        return obs, rewards, terminateds, truncateds, infos

    def render(self) -> tuple[str, ...]:
        """Every market in a few lines of text."""
        return tuple(view.render() for view in self.envs)

    def describe(self, index: int) -> str:
        """One market in a few lines of text."""
        if self._state is None:
            return "not reset yet"
        return describe_market(self.market, self.params, self._state.markets.market, index)

    def _arrays(self, actions: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Dictionaries by agent to arrays `[E, N_role, ...]`; who is absent gets an action that is ignored."""
        by_role = {}
        for role, idle in idle_actions(self.market, 1).items():
            default, ids = idle[0, ..., 0], self.ids[role]
            by_role[role] = np.array([[market.get(agent, default) for agent in ids] for market in actions], idle.dtype)
        return by_role

    def _joined(self, by_role: Mapping[str, np.ndarray]) -> Any:
        """Arrays `[E, N_role, ...]` side by side; observations of roles differ in size and become lists."""
        arrays = [by_role[role] for role in self.ids]
        if len(arrays) == 1:
            return arrays[0]
        if arrays[0].ndim == 2:
            return np.concatenate(arrays, axis=1)
        return [[row for array in arrays for row in array[i]] for i in range(self.num_envs)]

    def _dicts(self, rows: Any, present: Any) -> list[ByAgent]:
        """A dictionary of the present agents for each market."""
        whole = present.all(1).tolist()
        return [
            dict(zip(self.agents, row, strict=True))
            if full
            else {agent: value for agent, value, here in zip(self.agents, row, mask, strict=True) if here}
            for row, full, mask in zip(rows, whole, present, strict=True)
        ]


class _Views(Sequence[MultiAgentEnv]):
    """`envs[i]` of a vector environment, made when somebody asks for it."""

    def __init__(self, vector: MarketVectorEnv) -> None:
        self._vector = vector
        self._made: dict[int, _View] = {}

    def __len__(self) -> int:
        return self._vector.num_envs

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"market {index} of {len(self)}")
        index %= len(self)
        if index not in self._made:
            self._made[index] = _View(self._vector, index)
        return self._made[index]


class _View(MultiAgentEnv):
    """One market of a vector environment, to look at: who is in it, its spaces, what it looks like now."""

    def __init__(self, vector: MarketVectorEnv, index: int) -> None:
        self._vector, self._index = vector, index
        _describe_agents(self, vector.market)
        super().__init__()

    def render(self) -> Any:
        return self._vector.describe(self._index)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise NotImplementedError("a market of a vector environment is reset and stepped with all others")

    step = reset


class _NextStep:
    """State of a vector environment; a pytree."""

    def __init__(self, markets: MarketsState, first: ByRole, waiting: jax.Array) -> None:
        self.markets = markets
        self.first = first  # first observations of the episodes that wait to be shown, [N_role, D_role, E]
        self.waiting = waiting  # [E] bool


jax.tree_util.register_pytree_node(
    _NextStep, lambda s: ((s.markets, s.first, s.waiting), None), lambda _, parts: _NextStep(*parts)
)


@functools.lru_cache(maxsize=16)
def _compiled_next_step(env: MarketEnv, num_envs: int) -> tuple[Callable[..., Any], ...]:
    """Reset, restart and step with the market axis first, as dictionaries by agent want it."""
    markets = Markets(env, num_envs)

    def begin(obs: ByRole, state: MarketsState) -> tuple[ByRole, _NextStep]:
        return _rows(obs), _NextStep(state, obs, jnp.zeros(num_envs, bool))

    def reset(key: jax.Array, params: MarketParams) -> tuple[ByRole, _NextStep]:
        return begin(*markets.reset(key, params))

    def restart(state: _NextStep, params: MarketParams) -> tuple[ByRole, _NextStep]:
        """The next episode everywhere; one that waits to be shown is the next one already."""
        obs, fresh = markets.restart(state.markets, params)
        obs, fresh = where(state.waiting, (state.first, state.markets), (obs, fresh))
        return begin(obs, fresh)

    def step(before: _NextStep, action: ByRole, params: MarketParams) -> tuple[ByRole, dict[str, Any], _NextStep]:
        waiting = before.waiting
        action = {role: jnp.moveaxis(value, 0, -1) for role, value in action.items()}
        obs, state, reward, terminated, truncated, info = markets.step(before.markets, action, params)
        state = jax.lax.cond(waiting.any(), lambda: where(waiting, before.markets, state), lambda: state)
        over = info["reset"] & ~waiting
        shown = where(waiting, before.first, info["final_observation"])
        scale = params.quanta_per_unit
        equity = jnp.where(waiting, before.markets.market.accounts.equity, info["equity"])
        alive = {role: info["acted"][role] & ~terminated[role] & ~truncated[role] & ~over | waiting for role in action}
        told = {
            "acted": _rows({role: acted | waiting for role, acted in info["acted"].items()}),
            "acts_next": _rows(alive),
            "reward": _rows({role: jnp.where(waiting, 0.0, value) for role, value in reward.items()}),
            "terminated": _rows({role: value & ~waiting for role, value in terminated.items()}),
            "at_limit": jnp.concatenate(list(truncated.values())).any(0) & ~waiting,
            "equity": _rows({role: equity[env.agent_slice(role)] / scale for role in action}),
            "over": over,
        }
        return _rows(shown), told, _NextStep(state, where(over, obs, before.first), over)

    return jax.jit(reset), jax.jit(restart), jax.jit(step, donate_argnums=0)


def _rows(by_role: ByRole) -> ByRole:
    """Market axis first: `[N, ..., E]` to `[E, N, ...]`."""
    return {role: jnp.moveaxis(value, -1, 0) for role, value in by_role.items()}


def _describe_agents(target: Any, env: MarketEnv) -> None:
    """Give an RLlib environment its agents and their spaces."""
    target.possible_agents = [agent for own in agent_ids(env).values() for agent in own]
    target.agents = list(target.possible_agents)
    target.observation_spaces, target.action_spaces = gymnasium_spaces(env)


def describe_market(env: MarketEnv, params: MarketParams, market: MarketState, index: int) -> str:
    """A market in a few lines of text: step, prices, and each role's mean equity and position.

    Args:
        env: the market.
        params: its parameters.
        market: state of a batch, the market axis last.
        index: which of the batch.
    """
    one = jax.tree.map(lambda leaf: np.asarray(leaf[..., index]), market)
    scale = float(params.quanta_per_unit)
    prices = [f"{name} {price / scale:.2f}" for name, price in zip(env.asset_names, one.mid, strict=True)]
    lines = [f"step {int(one.step)} of {int(params.episode_length)}: {', '.join(prices)}"]
    for role in env.roles:
        rows = env.agent_slice(role.name)
        alive = int(one.accounts.alive[rows].sum())
        equity = one.accounts.equity[rows].mean() / scale
        lots = one.ledger.agents.lots[rows].mean(0)
        held = ", ".join(f"{name} {value:+.1f}" for name, value in zip(env.asset_names, lots, strict=True))
        lines.append(f"  {role.name}: {alive} of {role.count} alive, mean equity {equity:,.2f}, mean lots {held}")
    return "\n".join(lines)
