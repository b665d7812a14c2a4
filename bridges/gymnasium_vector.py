"""Markets as Gymnasium environments: many of them as one vector environment, or a single one.

Belongs here: what a row (Gymnasium's sub-environment) is, and Gymnasium's conventions for ends and infos. Does not
belong here: stepping markets (`jaxarena.env.wrappers`), and what every bridge shares (`bridges.markets`).

Importing this module registers each market of `jaxarena.registered()` with Gymnasium as `jaxarena/<name>`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxarena
from bridges.markets import MarketLike, gymnasium_space, load_market, market_key, require
from jaxarena.core.draws import fold_in
from jaxarena.core.reduce import fold, total
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets, MarketsState

require("gymnasium", "gymnasium")

import gymnasium  # noqa: E402 - after the check that says how to install it
from gymnasium.error import ResetNeeded  # noqa: E402
from gymnasium.vector import AutoresetMode, VectorEnv  # noqa: E402
from gymnasium.vector.utils import batch_space  # noqa: E402

#: What a row is: one agent of the role, or all agents of the role in one market.
View = Literal["agent", "role"]

#: Plays a whole role inside the compiled step: key and `obs[role]`, `[N, D, E]`, to actions `[N, ..., E]`.
Policy = Callable[[jax.Array, jax.Array], jax.Array]

#: Observations and infos.
Begun = tuple[np.ndarray, dict[str, Any]]

_SLAB = 8  # rows of a matrix that are transposed together
_POLICY_STREAM = 2**31 - 1  # of the base key; the streams of markets are numbered from 0


class _Rows(NamedTuple):
    """A step as the rows see it. `acted` and `equity` are per agent, `[E, N]`, where a row is a whole role."""

    reward: Any  # [R] float32
    terminated: Any  # [R] bool
    truncated: Any  # [R] bool
    acted: Any  # [R] or [E, N] bool, alive before the step
    equity: Any  # [R] or [E, N] float32 quanta, of the new episode where the market has reset


class _Ends(NamedTuple):
    """What a step knows besides, for rows whose episode ends; stays on the device when none does."""

    equity: Any  # [R] or [E, N] float32 quanta before any reset
    returns: Any  # [R] float32 rewards since the episode began
    length: Any  # [R] int32 steps since the episode began
    reset: Any  # [R] bool, whether the row's market has begun a new episode


class _Carry(NamedTuple):
    """What goes from step to step in the same memory.

    Observations are here because new megabytes at every step cost more than the step: the allocator gives them back
    to the system and gets them again page by page.
    """

    markets: MarketsState
    obs: jax.Array  # [R, D], or [E, N, D]; the first of the new episode where the market has reset
    final_obs: jax.Array  # [N, D, E] before any reset
    seen: ByRole  # observations of the roles that policies play
    returns: jax.Array  # [R] float32
    key: jax.Array  # of the policies, never changed
    clock: jax.Array  # [] int32 steps since the key was made


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is compiled: how many markets, which of their agents make a row, and who plays the other roles."""

    env: MarketEnv
    num_markets: int
    role: str
    view: View
    others: tuple[tuple[str, Policy], ...]

    @property
    def rows_per_market(self) -> int:
        """Rows that one market makes; rows are ordered market by market."""
        return self.env.num_agents(self.role) if self.view == "agent" else 1

    def begin(self, key: jax.Array, params: MarketParams) -> tuple[_Carry, jax.Array]:
        """First episodes: carry and equity. key: kept as the base of all random streams."""
        obs, markets = Markets(self.env, self.num_markets).reset(key, params)
        return self._started(obs, markets, fold_in(key, _POLICY_STREAM), jnp.zeros((), jnp.int32))

    def again(self, carry: _Carry, params: MarketParams) -> tuple[_Carry, jax.Array]:
        """Next episodes everywhere: carry and equity."""
        obs, markets = Markets(self.env, self.num_markets).restart(carry.markets, params)
        return self._started(obs, markets, carry.key, carry.clock)

    def step(self, carry: _Carry, actions: jax.Array, params: MarketParams) -> tuple[_Carry, _Rows, _Ends]:
        """One step of all markets from `[R, ...]` or `[E, N, ...]` actions."""
        key = fold_in(carry.key, carry.clock)
        action = {role: policy(fold_in(key, i), carry.seen[role]) for i, (role, policy) in enumerate(self.others)}
        action[self.role] = self._of_rows(actions)
        markets = Markets(self.env, self.num_markets)
        obs, state, reward, terminated, truncated, info = markets.step(carry.markets, action, params)
        outcome = self._outcome(*(by_role[self.role] for by_role in (reward, terminated, truncated, info["acted"])))
        rows = _Rows(*outcome, self._rows(info["acted"][self.role]), self._equity(state.market.accounts.equity))
        returns, reset = carry.returns + rows.reward, self._of_markets(info["reset"])
        ends = _Ends(self._equity(info["equity"]), returns, self._of_markets(info["episode"]["length"]), reset)
        carry = _Carry(
            markets=state,
            obs=self._observed(obs[self.role], carry.obs),
            final_obs=info["final_observation"][self.role],
            seen=self._seen(obs),
            returns=jnp.where(reset, 0.0, returns),
            key=carry.key,
            clock=carry.clock + 1,
        )
        return carry, rows, ends

    def _started(self, obs: ByRole, markets: MarketsState, *stream: jax.Array) -> tuple[_Carry, jax.Array]:
        own, returns = obs[self.role], jnp.zeros(self.num_markets * self.rows_per_market)
        rows = self._observed(own, jnp.zeros(own.shape))
        return _Carry(markets, rows, own, self._seen(obs), returns, *stream), self._equity(
            markets.market.accounts.equity
        )

    def _seen(self, obs: ByRole) -> ByRole:
        return {role: obs[role] for role, _ in self.others}

    def _rows(self, array: jax.Array) -> jax.Array:
        """`[N, ..., E]` to `[E * N, ...]`, or `[E, N, ...]` where a row is a whole role."""
        markets_first = jnp.moveaxis(array, -1, 0)
        return markets_first.reshape(-1, *array.shape[1:-1]) if self.view == "agent" else markets_first

    def _of_markets(self, array: jax.Array) -> jax.Array:
        """`[E]` to `[R]`."""
        return jnp.broadcast_to(array[:, None], (self.num_markets, self.rows_per_market)).reshape(-1)

    def _observed(self, obs: jax.Array, old: jax.Array) -> jax.Array:
        """`_rows` of observations, which are the only large arrays, in the memory of old ones."""
        count, size, num_markets = obs.shape
        rows = _markets_first(obs, old.reshape(num_markets, count * size))
        return rows.reshape((-1, size) if self.view == "agent" else (num_markets, count, size))

    def _of_rows(self, actions: jax.Array) -> jax.Array:
        """The inverse of `_rows`."""
        trailing = actions.shape[1:] if self.view == "agent" else actions.shape[2:]
        markets_first = actions.reshape(self.num_markets, self.env.num_agents(self.role), *trailing)
        return jnp.moveaxis(markets_first, 0, -1)

    def _outcome(
        self, reward: jax.Array, terminated: jax.Array, truncated: jax.Array, acted: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reward and flags of the rows from those of the agents, `[N, E]`."""
        if self.view == "agent":
            return self._rows(reward), self._rows(terminated), self._rows(truncated)
        some_acted = fold(jnp.logical_or, acted)
        some_live = fold(jnp.logical_or, acted & ~terminated)
        mean = total(reward) / jnp.maximum(total(acted.astype(jnp.float32)), 1.0)
        return mean, some_acted & ~some_live, fold(jnp.logical_or, truncated)

    def _equity(self, equity: jax.Array) -> jax.Array:
        return self._rows(equity[self.env.agent_slice(self.role)])


def _markets_first(obs: jax.Array, out: jax.Array) -> jax.Array:
    """`[N, D, E]` to `[E, N * D]`, written over `out`.

    By slabs on a CPU: XLA would walk down whole columns there, and miss the cache at every number.
    """
    width, size = out.shape
    slab = min(_SLAB, size)

    def by_slabs(obs: jax.Array, out: jax.Array) -> jax.Array:
        def body(i: jax.Array, out: jax.Array) -> jax.Array:
            start = jnp.minimum(i * slab, size - slab)  # the last slab may do some rows again
            rows = lax.dynamic_slice(obs.reshape(size, width), (start, 0), (slab, width))
            return lax.dynamic_update_slice(out, rows.T, (0, start))

        return lax.fori_loop(0, -(-size // slab), body, out)

    return lax.platform_dependent(obs, out, cpu=by_slabs, default=lambda obs, _: obs.reshape(size, width).T)


_begin = jax.jit(_Program.begin, static_argnums=0)
_again = jax.jit(_Program.again, static_argnums=0, donate_argnums=1, keep_unused=True)
_step = jax.jit(_Program.step, static_argnums=0, donate_argnums=1, keep_unused=True)


class MarketVectorEnv(VectorEnv):
    """`E` markets as one Gymnasium vector environment that resets itself in the step that ends an episode.

    A row is an agent (`view="agent"`, parameters shared by the role's agents; rows are ordered market by market) or
    the whole role of one market (`view="role"`: observation `[N, D]`, one action for each agent, the mean reward of
    the agents that acted, terminated when all of them are dead). A whole step, the change between rows and the market's
    own layout included, is one compiled call.

    A row terminates when its agent goes bankrupt and is truncated at the time limit. While other agents of its market
    play on, the row of a dead one idles: reward 0, no flags, `info["acted"]` False. It is real again when the market
    resets. Rows never idle if no other row or role can keep their market going: one agent, or `view="role"` of the only
    learned role.

    Infos follow `SyncVectorEnv` with `AutoresetMode.SAME_STEP`, masks included: `acted`, `equity` (units of currency);
    and on steps that end an episode `final_obs` and `final_info` with `acted`, `equity` and `episode`, the return `r`
    and the length `l`. The other infos of a row that is over are those of a reset, where all agents count as acting.
    With `view="role"`, `acted` and `equity` have one entry per agent.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        market: MarketLike,
        num_markets: int,
        *,
        role: str | None = None,
        view: View = "agent",
        others: Mapping[str, Policy] | None = None,
        seed: int | None = None,
    ) -> None:
        """Build the environment; compiling waits for the first `reset` and `step`.

        Args:
            market: one of `jaxarena.registered()`, or an environment with its parameters.
            num_markets: `E`.
            role: the learned role that rows belong to; may be left out if it is the only one.
            view: what a row is.
            others: who plays each of the other learned roles.
            seed: of the first `reset`, if that names none; left out, it is drawn.

        Raises:
            ValueError: the role, the view or the number of markets; learned roles that nobody plays.
        """
        env, self._params = load_market(market)
        role = learned_role(env, role)
        if view not in ("agent", "role"):
            raise ValueError(f"view: got {view!r}, allowed are 'agent' (a row per agent) and 'role' (a row per market)")
        Markets(env, num_markets)  # checks the number
        self._program = _Program(env, num_markets, role, view, _policies(env, role, others or {}))
        self._seed, self._unit = seed, np.float32(self._params.quanta_per_unit)
        self._carry: _Carry | None = None
        self.num_envs = num_markets * self._program.rows_per_market
        self.single_observation_space, self.single_action_space = _spaces(env, role, view)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:
        """Begin an episode in every market: the first of new random streams with a seed, else the next one.

        Raises:
            ValueError: `options["reset_mask"]`; markets reset themselves.
            gymnasium.error.Error: a seed that is not an integer of 0 or more.
        """
        if options and "reset_mask" in options:
            raise ValueError("options['reset_mask']: markets reset themselves when they end; call reset() for all")
        if seed is None and self._carry is None:
            seed = self._seed
        super().reset(seed=seed)
        if seed is not None or self._carry is None:
            self._carry, equity = _begin(self._program, market_key(int(self.np_random_seed or 0)), self._params)
        else:
            self._carry, equity = _again(self._program, self._carry, self._params)
        obs, equity = _to_host((self._carry.obs, equity))
        return np.array(obs), _everywhere(acted=np.ones_like(equity, bool), equity=equity / self._unit)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all markets; those whose episode is over begin the next one.

        Args:
            actions: of the shape of `action_space`, NumPy or JAX; those of idle rows are ignored.

        Returns:
            obs, reward (float64), terminated, truncated, info; the first axis is the row.

        Raises:
            ValueError: actions of another shape.
            ResetNeeded: before the first `reset`.
        """
        obs, rows, ends = self._advance(actions)
        over = rows.terminated | rows.truncated
        alive = rows.acted | over.reshape(-1, *(1,) * (rows.acted.ndim - 1))  # who is over has begun again
        info = _everywhere(acted=alive, equity=rows.equity)
        if over.any():
            final_obs, told = self._fetch(ends)
            episode = _masked(over, r=told.returns, l=told.length)
            final = _masked(over, acted=rows.acted, equity=told.equity) | {"episode": episode, "_episode": over.copy()}
            info |= {"final_obs": self._final_obs(final_obs, over), "_final_obs": over.copy()}
            info |= {"final_info": final, "_final_info": over.copy()}
        # Copies, because the device's memory is used again by the next step.
        obs, terminated, truncated = np.array(obs), np.array(rows.terminated), np.array(rows.truncated)
        return obs, rows.reward.astype(np.float64), terminated, truncated, info

    def _advance(self, actions: Any) -> tuple[np.ndarray, _Rows, tuple[jax.Array, _Ends]]:
        """`step` before Gymnasium's conventions.

        Returns:
            obs: valid until the next step.
            rows: the rest of what rows see, on the host; equity in units of currency.
            ends: final observations `[N, D, E]`, and what else is known; on the device, for `_fetch`.
        """
        if self._carry is None:
            raise ResetNeeded("step: nothing has begun; call reset() first")
        if not isinstance(actions, jax.Array):
            kind = np.float32 if self.single_action_space.dtype == np.float32 else np.int32
            actions = np.asarray(actions).astype(kind, casting="same_kind", copy=False)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions: got shape {actions.shape}, allowed is {self.action_space.shape}, one per row")
        self._carry, rows, ends = _step(self._program, self._carry, actions, self._params)
        obs, rows = _to_host((self._carry.obs, rows))
        return obs, rows._replace(equity=rows.equity / self._unit), (self._carry.final_obs, ends)

    def _fetch(self, ends: tuple[jax.Array, _Ends]) -> tuple[np.ndarray, _Ends]:
        """What `_advance` left on the device: final observations, valid until the next step, and the rest."""
        final_obs, told = _to_host(ends)
        return final_obs, told._replace(equity=told.equity / self._unit)

    def _final_obs(self, obs: np.ndarray, over: np.ndarray) -> np.ndarray:
        """Last observations of the rows that are over, None elsewhere: `[R]` objects, as `SyncVectorEnv` gives them."""
        markets, rows = np.moveaxis(obs, -1, 0), np.flatnonzero(over)
        final = markets[np.divmod(rows, obs.shape[0])] if self._program.view == "agent" else markets[rows]
        objects = np.full(self.num_envs, None, object)
        for row, last in zip(rows, final, strict=True):
            objects[row] = last
        return objects


class MarketGymEnv(gymnasium.Env):
    """One market that one policy plays: `gymnasium.make("jaxarena/Gbm-v0")` after importing this module.

    The policy acts for all agents of a learned role, or for its only agent; see `MarketVectorEnv`. There is no
    auto-reset: `reset()` begins the next episode of the same random streams. Infos are `acted` and `equity`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        market: MarketLike,
        *,
        role: str | None = None,
        view: View | None = None,
        others: Mapping[str, Policy] | None = None,
        seed: int | None = None,
    ) -> None:
        """As `MarketVectorEnv`; `view` is left out: "agent" for a role of one agent, else "role".

        Raises:
            ValueError: as `MarketVectorEnv`; a view that makes several rows.
        """
        env, _ = load_market(market)
        role = learned_role(env, role)
        alone = env.num_agents(role) == 1
        if view == "agent" and not alone:
            raise ValueError(
                f"view: got 'agent', allowed is 'role', because role {role!r} has {env.num_agents(role)} agents and "
                "this is one row; use view='role', or MarketVectorEnv, which has a row for each agent"
            )
        view = view or ("agent" if alone else "role")
        self._markets = MarketVectorEnv(market, 1, role=role, view=view, others=others, seed=seed)
        self.observation_space = self._markets.single_observation_space
        self.action_space = self._markets.single_action_space
        self._over = True  # nothing can be stepped
        self._begun: Begun | None = None  # the market resets before it is asked to

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Begun:
        """Begin an episode: the first of new random streams with a seed, else the next one."""
        super().reset(seed=seed)
        begun, self._begun, self._over = self._begun, None, False
        if seed is None and begun is not None:
            return begun
        obs, info = self._markets.reset(seed=seed, options=options)
        return obs[0], _single(info["acted"], info["equity"])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Step the market.

        Raises:
            ResetNeeded: the episode is over, or none has begun.
        """
        if self._over:
            raise ResetNeeded("step: the episode is over, or none has begun; call reset() first")
        obs, rows, ends = self._markets._advance(np.asarray(action)[None])
        obs, info = np.array(obs[0]), _single(rows.acted, rows.equity)
        self._over = bool(rows.terminated[0] or rows.truncated[0])
        if self._over:
            final_obs, told = self._markets._fetch(ends)
            if told.reset[0]:
                self._begun = (obs, _single(np.ones_like(rows.acted), rows.equity))
            obs, info = np.array(final_obs[..., 0]).reshape(obs.shape), _single(rows.acted, told.equity)
        return obs, float(rows.reward[0]), bool(rows.terminated[0]), bool(rows.truncated[0]), info


def learned_role(env: MarketEnv, role: str | None) -> str:
    """The learned role that is meant: the named one, or the only one.

    Raises:
        ValueError: it does not exist, is not learned, or has to be named.
    """
    allowed = ", ".join(env.learned_roles)
    if role is None and len(env.learned_roles) == 1:
        return env.learned_roles[0]
    if role is None:
        raise ValueError(f"role: got None, allowed are the learned roles {allowed}; name the one that rows belong to")
    if role not in env.learned_roles:
        raise ValueError(f"role: got {role!r}, allowed are the learned roles: {allowed}")
    return role


def make_vector(num_envs: int, market: MarketLike, *, view: View = "agent", **kwargs: Any) -> MarketVectorEnv:
    """The entry point of `gymnasium.make_vec`, which counts rows: `num_envs / N` markets with `view="agent"`.

    Raises:
        ValueError: as `MarketVectorEnv`; rows that do not fill whole markets.
    """
    env, _ = load_market(market)
    role = learned_role(env, kwargs.pop("role", None))
    count = env.num_agents(role) if view == "agent" else 1
    if num_envs % count:
        raise ValueError(
            f"num_envs: got {num_envs}, allowed are multiples of {count}, because each of the {count} agents of role "
            f"{role!r} is a row; use {count * -(-num_envs // count)}, or view='role' for one row per market"
        )
    return MarketVectorEnv(market, num_envs // count, role=role, view=view, **kwargs)


def register_markets() -> None:
    """Register each market of `jaxarena.registered()` as `jaxarena/<name>`, unless that has been done."""
    for name in jaxarena.registered():
        if f"jaxarena/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"jaxarena/{name}",
                entry_point="bridges.gymnasium_vector:MarketGymEnv",
                vector_entry_point="bridges.gymnasium_vector:make_vector",
                kwargs={"market": name},
            )


def _policies(env: MarketEnv, role: str, others: Mapping[str, Policy]) -> tuple[tuple[str, Policy], ...]:
    needed = [name for name in env.learned_roles if name != role]
    if unknown := sorted(set(others) - set(needed)):
        raise ValueError(
            f"others: got {', '.join(unknown)}, allowed are the other learned roles: {', '.join(needed) or 'none'}"
        )
    if missing := [name for name in needed if name not in others]:
        raise ValueError(
            f"others: got no policy for {', '.join(missing)}, needed are {', '.join(needed)}, because rows belong to "
            f"{role!r} alone; pass others={{{missing[0]!r}: policy}}, or give that role a scripted strategy"
        )
    return tuple((name, others[name]) for name in needed)


def _spaces(env: MarketEnv, role: str, view: View) -> tuple[gymnasium.Space, gymnasium.Space]:
    """Observation and action space of a row."""
    spaces = gymnasium_space(env.observation_space(role)), gymnasium_space(env.action_space(role))
    if view == "agent":
        return spaces
    count = env.num_agents(role)
    if isinstance(spaces[1], gymnasium.spaces.MultiDiscrete):  # batch_space makes it a Box of integers
        return batch_space(spaces[0], count), gymnasium.spaces.MultiDiscrete(np.tile(spaces[1].nvec, (count, 1)))
    return batch_space(spaces[0], count), batch_space(spaces[1], count)


def _to_host(tree: Any) -> Any:
    """`jax.device_get`; that asks ahead for every array, which costs more than it saves where there is no way to go."""
    return jax.tree.map(np.asarray, tree) if jax.default_backend() == "cpu" else jax.device_get(tree)


def _everywhere(**entries: np.ndarray) -> dict[str, Any]:
    """Infos that every row has, each with its mask as `_name`, as Gymnasium batches them."""
    return entries | {f"_{name}": np.ones(len(values), bool) for name, values in entries.items()}


def _masked(mask: np.ndarray, **entries: np.ndarray) -> dict[str, Any]:
    """Infos that some rows have: zero where the mask is off."""
    info: dict[str, Any] = {}
    for name, values in entries.items():
        of_rows = mask.reshape(-1, *(1,) * (values.ndim - 1))
        info[name], info[f"_{name}"] = np.where(of_rows, values, values.dtype.type(0)), mask.copy()
    return info


def _single(acted: np.ndarray, equity: np.ndarray) -> dict[str, Any]:
    """Infos of the only row."""
    return {"acted": np.array(acted[0]) if acted.ndim > 1 else bool(acted[0]), "equity": equity[0].copy()}


register_markets()
