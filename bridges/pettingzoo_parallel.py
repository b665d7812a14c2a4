"""A market as a PettingZoo `ParallelEnv`: one market, one name per learned agent, NumPy on the outside.

Belongs here: names, dicts, and who is still in the game. Does not belong here: what happens in the market (`env`),
auto-reset and random streams (`Markets`), or many markets at once (see `docs/bridges/jaxmarl.md` for that).
"""

import secrets
from typing import Any, ClassVar

import jax
import numpy as np

from bridges.markets import (
    MarketLike,
    agent_ids,
    compiled,
    gymnasium_space,
    idle_actions,
    load_market,
    market_key,
    require,
)
from jaxarena.env.env import ByRole

ParallelEnv: Any = require("pettingzoo", "pettingzoo").ParallelEnv
Box: Any = require("gymnasium.spaces", "pettingzoo").Box

#: What `infos` tells of each agent besides `equity`: counts of one step, and whether a margin call acted for it.
COUNTS = ("actions_clipped", "orders_trimmed", "orders_rejected", "liquidated")


class MarketParallelEnv(ParallelEnv):
    """One market whose learned agents, `trader_000` and so on, act at the same time.

    An agent that goes bankrupt is told `termination` once and is gone from `agents` afterwards; the others play on.
    At the time limit all that are left are truncated, and `agents` is empty until `reset`. With the base key of its
    seed it plays the very trajectory of `Markets(env, 1)`, bit for bit.

    Args:
        market: a registered name, or an environment with its parameters.
        render_mode: None; there is no renderer.

    Attributes:
        possible_agents: names of all learned agents; roles in their order.
        agents: those that must act next.
        state_space: of `state()`.

    Raises:
        ValueError: an unknown market or a render mode.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "jaxarena_market_v0", "render_modes": [], "is_parallelizable": True}

    def __init__(self, market: MarketLike, *, render_mode: None = None) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode: got {render_mode!r}, allowed is None; a market has no renderer")
        self.render_mode = render_mode
        self.env, self.params = load_market(market)
        self.possible_agents: list[str] = []
        self.agents: list[str] = []
        self.observation_spaces: dict[str, Any] = {}
        self.action_spaces: dict[str, Any] = {}
        self._row: dict[str, tuple[str, int]] = {}
        for role, ids in agent_ids(self.env).items():
            for number, agent in enumerate(ids):
                self.possible_agents.append(agent)
                self.observation_spaces[agent] = gymnasium_space(self.env.observation_space(role))
                self.action_spaces[agent] = gymnasium_space(self.env.action_space(role))
                self._row[agent] = role, number
        whole = [self.observation_spaces[agent] for agent in self.possible_agents]
        low, high = (np.concatenate([getattr(space, side) for space in whole]) for side in ("low", "high"))
        self.state_space = Box(low, high, dtype=np.float32)
        self._stepper, self._idle = compiled(self.env, 1), idle_actions(self.env, 1)
        self._market: Any = None  # MarketsState, once an episode has begun
        self._begun: ByRole | None = None  # first observations of an episode that has not been handed out yet
        self._seen: dict[str, np.ndarray] = {}

    def observation_space(self, agent: str) -> Any:
        """Space of an agent's observation, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """Space of an agent's action, the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode.

        Args:
            seed: begins the first episode of the random stream of this seed. None begins the next episode of the
                running stream, whether the last one is over or not; without one, a stream of a random seed.
            options: ignored.

        Returns:
            Observations and empty infos of all agents.
        """
        if seed is not None or self._market is None:
            key = market_key(secrets.randbits(32) if seed is None else seed)
            obs, self._market = self._stepper.reset(key, self.params)
        elif self._begun is not None:  # the step that ended the last episode has begun this one
            obs = self._begun
        else:
            obs, self._market = self._stepper.restart(self._market, self.params)
        self._begun = None
        self.agents = list(self.possible_agents)
        self._seen = self._by_agent(jax.device_get(obs))
        return dict(self._seen), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Advance the market by one bar.

        Args:
            actions: one for each of `agents`. Values outside the space are clipped or masked and counted.

        Returns:
            Observations, rewards, terminations, truncations and infos of the agents that acted. In `infos`: `equity`
            in units of currency, marked net of the cost of closing, `actions_clipped`, `orders_trimmed`,
            `orders_rejected` (counts of this step) and `liquidated` (a margin call acted in the agent's place).

        Raises:
            ValueError: actions are missing or of agents that are not in `agents`, or of a wrong shape or type; the
                episode is over, or none has begun.
        """
        batch, acted = self._batch(actions), self.agents
        obs, self._market, *outcome, info = self._stepper.step(self._market, batch, self.params)
        told = {name: info[name] for name in ("equity", *COUNTS)}
        seen, outcome, told = jax.device_get((info["final_observation"], outcome, told))
        rewards, terminations, truncations = (
            {agent: by_agent[agent].item() for agent in acted} for by_agent in map(self._by_agent, outcome)
        )
        self._seen = self._by_agent(seen)
        self.agents = [agent for agent in acted if not (terminations[agent] or truncations[agent])]
        self._begun = None if self.agents else obs
        observations = {agent: self._seen[agent] for agent in acted}
        return observations, rewards, terminations, truncations, self._infos(told, acted)

    def state(self) -> np.ndarray:
        """The last observations of all agents, dead or not, one after the other.

        Raises:
            ValueError: no episode has begun.
        """
        if not self._seen:
            raise ValueError("state: no episode has begun; call reset() first")
        return np.concatenate([self._seen[agent] for agent in self.possible_agents])

    def _by_agent(self, by_role: dict[str, np.ndarray]) -> dict[str, Any]:
        """Rows of arrays `[N_role, ..., 1]`, copied: JAX hands out read-only memory."""
        rows = {role: np.array(array[..., 0]) for role, array in by_role.items()}
        return {agent: rows[role][number] for agent, (role, number) in self._row.items()}

    def _infos(self, told: dict[str, np.ndarray], agents: list[str]) -> dict[str, dict[str, Any]]:
        infos = {}
        for agent in agents:
            role, number = self._row[agent]
            index = self.env.agent_slice(role).start + number
            infos[agent] = {name: array[index, 0].item() for name, array in told.items()}
            infos[agent]["equity"] /= self.params.quanta_per_unit
        return infos

    def _batch(self, actions: dict[str, Any]) -> dict[str, Any]:
        """Arrays `[N_role, ..., 1]` of one action per living agent, and idle ones for the dead."""
        if not self.agents:
            raise ValueError("step: the episode is over or none has begun; call reset() first")
        if actions.keys() != set(self.agents):
            missing = [agent for agent in self.agents if agent not in actions]
            unknown = [agent for agent in actions if agent not in self.agents]
            raise ValueError(
                f"actions: missing for {missing}, not in the game are {unknown}; give one for each of env.agents: "
                f"{self.agents}"
            )
        batch = {role: array.copy() for role, array in self._idle.items()}
        for agent, action in actions.items():
            role, number = self._row[agent]
            value, space = np.asarray(action), self.action_spaces[agent]
            if value.shape != space.shape or not np.can_cast(value.dtype, space.dtype, "same_kind"):
                raise ValueError(
                    f"actions[{agent!r}]: got {value.dtype} of shape {value.shape}, allowed is {space}; "
                    f"its sample() shows one"
                )
            batch[role][number, ..., 0] = value
        return batch
