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
        step_keys = vmap_last(fold_in, (True, True))(state.episode_key, state.market.step + 1)
        transition = vmap_last(self.env.transition, (True, True, True, False))
        market, reward, terminated, truncated, info = transition(step_keys, state.market, action, params)
        before, over = state.replace(market=market), info["reset"]
        after = jax.lax.cond(over.any(), lambda: self._restart(before, over, params), lambda: before)
        obs = self._observe(after.market, params)
        info["final_observation"] = jax.lax.cond(over.any(), lambda: self._observe(market, params), lambda: obs)
        return obs, after, reward, terminated, truncated, info

    def sample_actions(self, key: jax.Array) -> ByRole:
        """Random valid actions of all learned roles, `[N_role, ..., E]`. key: consumed."""
        actions = {}
        for index, name in enumerate(self.env.learned_roles):
            shape = (self.num_markets, self.env.num_agents(name))
            sample = self.env.action_space(name).sample(fold_in(key, index), shape)
            actions[name] = jnp.moveaxis(sample, 0, -1)
        return actions

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
