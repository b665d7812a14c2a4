"""The batched entry point: thousands of markets in one call, the market axis last in memory.

Collector, benchmarks and bridges all step markets through `Markets`. Belongs here: batching, keys,
auto-reset. Does not belong here: anything about one market (`env`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxarena.core.batching import vmap_last
from jaxarena.core.draws import fold_in
from jaxarena.core.once import once
from jaxarena.core.tree import Record
from jaxarena.env.env import ByRole, MarketEnv
from jaxarena.env.state import MarketParams, MarketState


class MarketsState(Record):
    """State of `E` markets and of their random streams."""

    market: MarketState  # leaves [..., E]
    key: jax.Array  # [E] keys, one per market, never changed
    episode: jax.Array  # [E] int32 episodes begun before this one
    episode_key: jax.Array  # [E] keys, `fold_in(key, episode)`


class FinalObservations(Record):
    """What was seen before the resets at the time limit, kept apart from the steps: a learner bootstraps from it.

    Every market has `S` slots. `1 + (T - 1) // episode_length` are enough for `T` steps, because a market that is
    reset for another reason, all its learned agents bankrupt, leaves nothing to bootstrap from.
    """

    obs: ByRole  # [S, N_role, D_role, E]
    count: jax.Array  # [E] int32 slots filled

    @classmethod
    def empty(cls, obs: ByRole, slots: int) -> "FinalObservations":
        """Nothing kept yet, for observations of this form."""
        shapes = {role: (slots, *leaf.shape) for role, leaf in obs.items()}
        return cls({role: jnp.zeros(shape, jnp.float32) for role, shape in shapes.items()}, _zeros(obs))

    def put(self, obs: ByRole, chosen: jax.Array) -> "FinalObservations":
        """Fill the next slot of the markets `chosen`, `[E]` bool."""
        kept = {}
        for role, slots in self.obs.items():
            here = (jnp.arange(slots.shape[0])[:, None] == self.count) & chosen  # [S, E]
            kept[role] = jnp.where(here[:, None, None], obs[role], slots)
        return FinalObservations(kept, self.count + chosen.astype(jnp.int32))


class Markets:
    """`E` independent markets with auto-reset.

    Random streams: market `i` of base key `k` has `key_i = fold_in(k, i)`; its episode `j` resets with
    `fold_in(fold_in(key_i, j), 0)` and takes step `t` with `fold_in(fold_in(key_i, j), t + 1)`. A trajectory
    therefore depends on nothing but these numbers: called one by one, scanned, or continued later.
    """

    def __init__(self, env: MarketEnv, num_markets: int) -> None:
        if num_markets < 1:
            raise ValueError(f"num_markets: got {num_markets}, allowed are 1 or more")
        self.env, self.num_markets = env, num_markets

    def reset(self, key: jax.Array, params: MarketParams) -> tuple[ByRole, MarketsState]:
        """Start every market's first episode. key: kept as the base of all random streams.

        Returns:
            `obs[role]`, `[N_role, D_role, E]`, and the state.
        """
        keys = jax.vmap(lambda i: fold_in(key, i))(jnp.arange(self.num_markets))
        episode = jnp.zeros(self.num_markets, jnp.int32)
        state = self._begin(keys, episode, params)
        return self._observe(once(state.market), params), state

    def step(
        self, state: MarketsState, action: ByRole, params: MarketParams
    ) -> tuple[ByRole, MarketsState, ByRole, ByRole, ByRole, dict[str, Any]]:
        """Step every market; those whose episode ended start the next one.

        Args:
            state: from `reset` or the last step.
            action: `action[role]`, `[N_role, ..., E]`.
            params: shared by all markets.

        Returns:
            As `MarketEnv.step`, every array with a last axis `E`.
        """
        before, reward, terminated, truncated, info = self._transition(state, action, params)
        over = info["reset"]
        after = jax.lax.cond(over.any(), lambda: self._restart(before, over, params), lambda: before)
        obs = self._observe(after.market, params)
        info["final_observation"] = jax.lax.cond(over.any(), lambda: self._observe(before.market, params), lambda: obs)
        return obs, after, reward, terminated, truncated, info

    def step_keeping(
        self, state: MarketsState, kept: FinalObservations, action: ByRole, params: MarketParams
    ) -> tuple[ByRole, MarketsState, FinalObservations, ByRole, ByRole, ByRole, dict[str, Any]]:
        """As `step`, but final observations go into `kept` instead of `info`: no array of them for every step."""
        before, reward, terminated, truncated, info = self._transition(state, action, params)
        over = info["reset"]
        at_limit = jnp.concatenate(list(truncated.values())).any(0)

        def end() -> tuple[MarketsState, FinalObservations]:
            return self._restart(before, over, params), kept.put(self._observe(before.market, params), at_limit)

        after, kept = jax.lax.cond(over.any(), end, lambda: (before, kept))
        return self._observe(after.market, params), after, kept, reward, terminated, truncated, info

    def restart(self, state: MarketsState, params: MarketParams) -> tuple[ByRole, MarketsState]:
        """Begin the next episode in every market, over or not: observations as of `reset`, and the state."""
        state = self._begin(state.key, state.episode + 1, params)
        return self._observe(once(state.market), params), state

    def sample_actions(self, key: jax.Array) -> ByRole:
        """Random valid actions of all learned roles, `[N_role, ..., E]`. key: consumed."""
        actions = {}
        for index, name in enumerate(self.env.learned_roles):
            shape = (self.num_markets, self.env.num_agents(name))
            sample = self.env.action_space(name).sample(fold_in(key, index), shape)
            actions[name] = jnp.moveaxis(sample, 0, -1)
        return actions

    def _transition(self, state: MarketsState, action: ByRole, params: MarketParams) -> tuple[Any, ...]:
        """Every market one bar on, none reset: state, reward, terminated, truncated, info."""
        step_keys = vmap_last(fold_in, (True, True))(state.episode_key, state.market.step + 1)
        transition = vmap_last(self.env.transition, (True, True, True, False))
        market, *outcome = transition(step_keys, state.market, action, params)
        return state.replace(market=market), *outcome

    def _observe(self, market: MarketState, params: MarketParams) -> ByRole:
        return vmap_last(self.env.observe, (True, False))(market, params)

    def _begin(self, keys: jax.Array, episode: jax.Array, params: MarketParams) -> MarketsState:
        episode_keys = vmap_last(fold_in, (True, True))(keys, episode)
        reset_keys = vmap_last(lambda key: fold_in(key, 0), (True,))(episode_keys)
        market = vmap_last(self.env.first_state, (True, False))(reset_keys, params)
        return MarketsState(market=market, key=keys, episode=episode, episode_key=episode_keys)

    def _restart(self, state: MarketsState, over: jax.Array, params: MarketParams) -> MarketsState:
        """Begin the next episode where the old one is over; only run on steps that end one."""
        fresh = self._begin(state.key, state.episode + 1, params)
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, state)


def _zeros(obs: ByRole) -> jax.Array:
    """A count for every market."""
    return jnp.zeros(next(iter(obs.values())).shape[-1], jnp.int32)
