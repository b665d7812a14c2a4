"""A market as a JaxMARL `MultiAgentEnv`: one name per learned agent, everything traceable.

Belongs here: names, dicts, JaxMARL's spaces, and its single `done`. Does not belong here: what happens in the market
(`env`), auto-reset and batching; they are JaxMARL's own `step` and the caller's `vmap`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bridges.markets import MarketLike, agent_ids, load_market, require
from jaxarena.core import spaces
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketState

MultiAgentEnv: Any = require("jaxmarl.environments.multi_agent_env", "jaxmarl").MultiAgentEnv
jaxmarl_spaces: Any = require("jaxmarl.environments.spaces", "jaxmarl")

#: An array for each learned agent.
ByAgent = dict[str, jax.Array]
#: What `info` tells of each agent as the environment itself does.
REPORTED = ("equity", "actions_clipped", "orders_trimmed", "orders_rejected", "liquidated")


class MarketJaxMARL(MultiAgentEnv):
    """One market whose learned agents are called `trader_000`, `trader_001` and so on.

    JaxMARL's inherited `step` resets by itself; `step_env` does not. An agent is done from the step on which it goes
    bankrupt until the market resets, or on the last step. The state is the market's own `MarketState`.

    Parameters stand on the instance, since JaxMARL's calls have no place for them. A program that is compiled around
    an instance holds them as constants. To pass them as arguments instead, make the instance inside the function:
    `jax.jit(lambda params, key: MarketJaxMARL((env, params)).reset(key))`.

    Args:
        market: a registered name, or an environment with its parameters, traced or not.

    Attributes:
        agents: names of all learned agents; roles in their order.
        observation_spaces, action_spaces: JaxMARL's spaces by agent.

    Raises:
        ValueError: an unknown market.
    """

    def __init__(self, market: MarketLike) -> None:
        self.env, self.params = load_market(market)
        self._ids = agent_ids(self.env)
        roles = {agent: role for role, ids in self._ids.items() for agent in ids}
        super().__init__(num_agents=len(roles))
        self.agents = list(roles)
        self.observation_spaces = {a: _space(self.env.observation_space(role)) for a, role in roles.items()}
        self.action_spaces = {a: _space(self.env.action_space(role)) for a, role in roles.items()}
        self._reset, self._step, self._observe = _native(self.env)

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Names of the agents of each learned role."""
        return {role: list(ids) for role, ids in self._ids.items()}

    def reset(self, key: jax.Array) -> tuple[ByAgent, MarketState]:
        """Start an episode. key: consumed.

        Returns:
            Observations `[D_role]` float32 by agent, and the state.
        """
        obs, state = self._reset(key, self.params)
        return self._by_agent(obs), state

    def step_env(
        self, key: jax.Array, state: MarketState, actions: ByAgent
    ) -> tuple[ByAgent, MarketState, ByAgent, ByAgent, dict[str, jax.Array]]:
        """Advance the market by one bar, without reset.

        Args:
            key: consumed.
            state: from `reset` or the last step.
            actions: for every agent, dead or not, in the shape of its space or with axes of length 1 besides.

        Returns:
            obs: `[D_role]` float32 by agent.
            state: the next state.
            rewards: `[]` float32 by agent; zero for agents that were dead.
            dones: `[]` bool by agent: bankrupt, now or earlier, or the episode is over; `__all__`: it is over.
            info: `[num_agents]` arrays in the order of `agents`: `terminated` (bankrupt now, or a terminal horizon is
                reached), `truncated` (alive at the time limit), `acted` (was alive), `equity` (float32 units of
                currency, marked net of the cost of closing), `actions_clipped`, `orders_trimmed`, `orders_rejected`
                (counts of this step) and `liquidated` (a margin call acted in the agent's place).

        Raises:
            ValueError: an agent has no action.
        """
        action = self._stacked(actions)
        obs, state, reward, terminated, truncated, told = self._step(key, state, action, self.params)
        info = {name: self._rows(told[name]) for name in REPORTED}
        info["equity"] = info["equity"] / self.params.quanta_per_unit
        for name, by_role in (("terminated", terminated), ("truncated", truncated), ("acted", told["acted"])):
            info[name] = jnp.concatenate([by_role[role] for role in self._ids])
        done = ~self._rows(state.accounts.alive) | told["reset"]
        dones = dict(zip(self.agents, done, strict=True)) | {"__all__": told["reset"]}
        return self._by_agent(obs), state, self._by_agent(reward), dones, info

    def get_obs(self, state: MarketState) -> ByAgent:
        """What the agents see in a state, `[D_role]` float32 by agent."""
        return self._by_agent(self._observe(state, self.params))

    def get_avail_actions(self, state: MarketState) -> ByAgent:
        """Masks `[n]` bool by agent, all true: a market allows every action at any time.

        Raises:
            ValueError: an agent whose actions are not `Discrete`.
        """
        for agent, space in self.action_spaces.items():
            if not isinstance(space, jaxmarl_spaces.Discrete):
                raise ValueError(
                    f"get_avail_actions: {agent!r} has actions in {type(space).__name__}, allowed is Discrete; "
                    f"masks exist for no other space, and all actions are allowed at any time"
                )
        return {agent: jnp.ones(space.n, bool) for agent, space in self.action_spaces.items()}

    def _by_agent(self, by_role: ByRole) -> ByAgent:
        return {agent: by_role[role][i] for role, ids in self._ids.items() for i, agent in enumerate(ids)}

    def _rows(self, array: jax.Array) -> jax.Array:
        """The rows of learned agents of an array over all `N` agents."""
        return jnp.concatenate([array[self.env.agent_slice(role)] for role in self._ids])

    def _stacked(self, actions: ByAgent) -> ByRole:
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise ValueError(f"actions: missing for {missing}; give one for each of env.agents, dead or not")
        return {
            role: jnp.stack([jnp.reshape(actions[agent], self.action_spaces[agent].shape) for agent in ids])
            for role, ids in self._ids.items()
        }


@functools.lru_cache(maxsize=64)
def _native(env: MarketEnv) -> tuple[Callable[..., Any], ...]:
    """The market's own functions, compiled once per process for callers that do not compile."""
    return jax.jit(env.reset), jax.jit(env.step_env), jax.jit(env.observe)


def _space(space: spaces.Space) -> Any:
    """JaxMARL's equal of a space of one agent."""
    if isinstance(space, spaces.Box):
        return jaxmarl_spaces.Box(space.low, space.high, (space.size,))
    if isinstance(space, spaces.Discrete):
        return jaxmarl_spaces.Discrete(space.n)
    return jaxmarl_spaces.MultiDiscrete(space.sizes)
