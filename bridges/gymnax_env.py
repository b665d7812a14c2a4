"""One agent's view of a market, by the contract of gymnax 1.0.

Belongs here: what translates between one agent and gymnax. Does not belong here: anything about a market. Importing
gymnax takes two seconds, so no other module does it.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxarena
from bridges.markets import MarketLike, load_market, require
from jaxarena.core.checks import expect_range
from jaxarena.core.draws import fold_in
from jaxarena.core.schema import nearest
from jaxarena.core.spaces import Box, Discrete
from jaxarena.core.tree import Record
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketParams, MarketState

require("gymnax", "gymnax")
import gymnax  # noqa: E402 - after the check that names the extra
from gymnax.environments import spaces  # noqa: E402
from gymnax.environments.environment import Environment  # noqa: E402
from gymnax.wrappers import LegacyStepAPIWrapper  # noqa: E402

#: What the other learned agents do: "absent", "hold", or `policy(key, obs_by_role) -> action_by_role`.
Others = str | Callable[[jax.Array, ByRole], ByRole]

#: Folded into a step's key for the policy of the others; the environment folds in small numbers.
_OTHERS = 2**31 - 1

#: What `info` tells of the agent; see `jaxarena.env.settlement.report`.
_TOLD = ("equity", "equity_mid", "lots", "actions_clipped", "orders_trimmed", "orders_rejected", "liquidated")


class GymnaxParams(MarketParams):
    """Parameters of a market that answer to gymnax's name of the time limit."""

    @property
    def max_steps_in_episode(self) -> int:
        """Steps until an episode is cut, or ends if the horizon is terminal."""
        return self.episode_length


class GymnaxState(Record):
    """State of one market, and how the agent's last step ended."""

    market: MarketState
    terminated: jax.Array  # [] bool
    truncated: jax.Array  # [] bool

    @property
    def time(self) -> jax.Array:
        """Steps since the start of the episode, `[]` int32."""
        return self.market.step


class MarketGymnax(Environment):
    """A market as one of its learned agents meets it.

    `obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)`. The base class resets
    the market when the agent's episode ends, and keeps the observation before that in `info["final_observation"]`.
    `step` splits its key in two, as all of gymnax does: the halves are those of `MarketEnv.step_env` and `reset`.
    `params` is any `MarketParams` of this market; passed as an argument, its price history is held once.

    Views of the same market, parameters, role, agent and others are equal, and share their compiled programs.

    Args:
        market: a name of `jaxarena.registered()`, or an environment with its parameters.
        role: the learned role of the agent; needed where there are several.
        agent: its number within the role, from 0.
        others: what the other learned agents do, if there are any. "absent": they are not there, and the market is
            built again without them. "hold": they never trade. A hashable function `policy(key, obs_by_role)` returns
            `action[role]`, `[N_role, ...]`, of every learned role; what it says of this agent is ignored.

    Raises:
        ValueError: an unknown market, role, agent or choice of others, or none where one is needed.

    >>> env = MarketGymnax("PlantedSignal-v0", others="absent")
    >>> obs, state = env.reset(jax.random.key(0), env.default_params)
    >>> env.action_space(env.default_params)
    Discrete(3, dtype=int32)
    """

    def __init__(
        self, market: MarketLike, *, role: str | None = None, agent: int = 0, others: Others | None = None
    ) -> None:
        env, params = load_market(market)
        self.role = _known_role(env, role)
        expect_range("agent", agent, 0, env.num_agents(self.role) - 1)
        learned = sum(env.num_agents(name) for name in env.learned_roles)
        if not (callable(others) or others in ("absent", "hold") or (others is None and learned == 1)):
            raise ValueError(
                f"others: got {others!r}, but {learned} agents of this market learn and one is played; "
                "allowed are 'absent' (a market without the others), 'hold' (they never trade), "
                "or a function (key, obs_by_role) -> action_by_role"
            )
        if others == "absent":
            (env, params), agent = _without_others(params, self.role), 0
        self.market, self.agent, self.others = env, agent, others
        self._given, self._params = params, GymnaxParams(**vars(params))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarketGymnax) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __deepcopy__(self, memo: dict[int, Any]) -> "MarketGymnax":
        return copy.copy(self)  # what it holds never changes; copied arrays would cost memory and compile again

    @property
    def default_params(self) -> GymnaxParams:
        """Parameters of the market; `replace(episode_length=...)` and the like give others."""
        return self._params

    @property
    def num_actions(self) -> int:
        """Number of choices of a discrete action, else the number of its entries."""
        space = self.action_space()
        return space.n if isinstance(space, spaces.Discrete) else int(np.prod(self._action_shape))

    def action_space(self, params: MarketParams | None = None) -> spaces.Space:
        """Action space of the agent.

        gymnax has no vectors of integers: one integer is `Discrete`, several are a `Tuple` of them.
        """
        space = self.market.action_space(self.role)
        if isinstance(space, Box):
            return spaces.Box(space.low, space.high, (space.size,), jnp.float32)
        choices = tuple(spaces.Discrete(n) for n in ((space.n,) if isinstance(space, Discrete) else space.sizes))
        return choices[0] if len(choices) == 1 else spaces.Tuple(choices)

    def observation_space(self, params: MarketParams | None = None) -> spaces.Box:
        """Observation space of the agent; `self.market.observation_layout(self.role)` tells what stands where."""
        space = self.market.observation_space(self.role)
        return spaces.Box(space.low, space.high, (space.size,), jnp.float32)

    def reset_env(self, key: jax.Array, params: MarketParams) -> tuple[jax.Array, GymnaxState]:
        """Start an episode. key: consumed, by `MarketEnv.reset`.

        Returns:
            `obs`, `[D]` float32, and the state.
        """
        obs, market = self.market.reset(key, params)
        no = jnp.zeros((), bool)
        return obs[self.role][self.agent], GymnaxState(market=market, terminated=no, truncated=no)

    def step_env(
        self, key: jax.Array, state: GymnaxState, action: Any, params: MarketParams
    ) -> tuple[jax.Array, GymnaxState, jax.Array, jax.Array, dict[str, Any]]:
        """Advance the market by one bar, without a reset.

        Args:
            key: consumed, by `MarketEnv.step_env`.
            state: from `reset` or the last step.
            action: in the action space; anything else is masked or clipped, and counted.
            params: of this market.

        Returns:
            obs: `[D]` float32.
            state: the next state; whether the time limit was reached is in it.
            reward: `[]` float32.
            terminated: `[]` bool, the agent went bankrupt, or a terminal horizon was reached.
            info: `acted`, whether the agent was alive; `equity`, float32 quanta; and the other facts of
                `jaxarena.env.settlement.report` about the agent.
        """
        if callable(self.others):
            actions = dict(self.others(fold_in(key, _OTHERS), self.market.observe(state.market, params)))
        else:
            actions = self._nothing()
        own = jnp.asarray(action).reshape(self._action_shape)
        of_role = jnp.asarray(actions[self.role], jnp.result_type(actions[self.role], own))
        actions[self.role] = of_role.at[self.agent].set(own)
        obs, market, *outcome, info = self.market.step_env(key, state.market, actions, params)
        reward, terminated, truncated = (array[self.role][self.agent] for array in outcome)
        row = self.market.agent_slice(self.role).start + self.agent
        told = {"acted": info["acted"][self.role][self.agent]} | {name: info[name][row] for name in _TOLD}
        after = GymnaxState(market=market, terminated=terminated, truncated=truncated)
        return obs[self.role][self.agent], after, reward, terminated, told

    def observe(self, key: jax.Array, state: GymnaxState, action: Any, params: MarketParams) -> jax.Array:
        """What the agent sees, `[D]` float32; key and action are not used."""
        return self.market.observe(state.market, params)[self.role][self.agent]

    def is_truncated(self, state: GymnaxState, params: MarketParams) -> jax.Array:
        """Whether the last step reached the time limit with the agent alive, `[]` bool."""
        return state.truncated

    def is_terminated(self, state: GymnaxState, params: MarketParams) -> jax.Array:
        """Whether the agent went bankrupt in the last step, or a terminal horizon was reached, `[]` bool."""
        return state.terminated

    def _identity(self) -> tuple[Any, ...]:
        # The parameters too: a call that leaves them out compiles the default ones in.
        return self.market, self._given, self.role, self.agent, self.others

    @property
    def _action_shape(self) -> tuple[int, ...]:
        return self._nothing()[self.role].shape[1:]

    def _nothing(self) -> dict[str, Any]:
        """Actions that trade nothing, whatever is held: what is not finite, or an integer outside the space.

        The environment counts them as masked, for agents of which `info` does not tell.
        """
        shapes = jax.eval_shape(self.market.sample_actions, jax.random.key(0))
        return {
            role: np.full(shape.shape, np.nan if jnp.issubdtype(shape.dtype, jnp.floating) else -1, shape.dtype)
            for role, shape in shapes.items()
        }


class FiveValues(LegacyStepAPIWrapper):
    """A gymnax environment for code written before gymnax 1.0: `obs, state, reward, done, info = env.step(...)`.

    `done` is `terminated | truncated`; both remain in `info`, with the final observation. gymnax's own adapter cannot
    be deep-copied, which rejax does to all that it is given.

    Args:
        env: a `MarketGymnax`, or a six-value wrapper around one.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "FiveValues":
        return self  # holds nothing that changes


def register_markets() -> list[str]:
    """Make every market of `jaxarena.registered()` known to `gymnax.make` as `jaxarena/<id>`.

    `gymnax.make("jaxarena/Gbm-v0", others="absent")` hands its keywords to `MarketGymnax`. May be called again, for
    markets that were registered since.

    Returns:
        The names.
    """
    names = {f"jaxarena/{name}": name for name in jaxarena.registered()}
    for env_id, name in names.items():
        if env_id not in gymnax.registered_envs:
            gymnax.register(env_id, functools.partial(MarketGymnax, name))
    return list(names)


def _known_role(env: MarketEnv, role: str | None) -> str:
    roles = env.learned_roles
    if role is None and len(roles) == 1:
        return roles[0]
    if role is None:
        raise ValueError(f"role: this market has several learned roles; name one of {', '.join(roles)}")
    if role not in roles:
        raise ValueError(f"role: got {role!r}, which is not a learned role; {nearest(role, list(roles))}")
    return role


@functools.lru_cache(maxsize=64)
def _without_others(params: MarketParams, role: str) -> tuple[MarketEnv, MarketParams]:
    """The market with one agent of this role, without the other learned roles; built once, so views of it are equal."""
    kept = [candidate for candidate in params.roles if candidate.name == role or not candidate.learned]
    alone = tuple(candidate.replace(count=1) if candidate.name == role else candidate for candidate in kept)
    return MarketEnv.build(params.replace(roles=alone))
