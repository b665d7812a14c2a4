"""A tiny environment of the package's contract and a minimal batch of it.

Each agent sees a hidden-free target and is paid for naming it, so the best reward per step is 1
in every action space. Agents die at random, which exercises masks, early ends and bootstraps.
"""

import jax
import jax.numpy as jnp

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete
from jaxarena.core.tree import Record, where


class ToyParams(Record):
    hazard: jax.Array | float = 0.02  # chance of dying per step


class ToyState(Record):
    target: dict  # [N_role, 2] in [-1, 1]
    alive: dict  # [N_role] bool
    total: dict  # [N_role] reward of this episode
    time: jax.Array


class ToyEnv:
    """`roles` maps a name to (number of agents, action space)."""

    obs_size = 4

    def __init__(self, roles=None, length=10):
        self.roles = roles or {"one": (1, Discrete(4))}
        self.length = length
        self.traces = 0

    @property
    def learned_roles(self):
        return tuple(self.roles)

    def num_agents(self, role):
        return self.roles[role][0]

    def action_space(self, role, params):
        return self.roles[role][1]

    def observation_space(self, role, params):
        return Box(-100.0, 100.0, self.obs_size)

    def reset(self, key, params):
        state = ToyState(
            target=self._draw(key),
            alive={role: jnp.ones(self.num_agents(role), bool) for role in self.roles},
            total={role: jnp.zeros(self.num_agents(role)) for role in self.roles},
            time=jnp.int32(0),
        )
        return self._observe(state), state

    def step(self, key, state, action, params):
        self.traces += 1
        key_step, key_reset = jax.random.split(key)
        key_target, key_death = jax.random.split(key_step)
        time = state.time + 1
        reward, terminated, truncated, alive = {}, {}, {}, {}
        for i, (role, (count, space)) in enumerate(self.roles.items()):
            score = _score(space, action[role], state.target[role])
            reward[role] = jnp.where(state.alive[role], score, 0.0)
            dies = jax.random.uniform(jax.random.fold_in(key_death, i), (count,)) < params.hazard
            terminated[role] = state.alive[role] & dies
            alive[role] = state.alive[role] & ~dies
            truncated[role] = alive[role] & (time >= self.length)
        total = {role: state.total[role] + reward[role] for role in self.roles}
        stepped = ToyState(target=self._draw(key_target), alive=alive, total=total, time=time)
        final_observation = self._observe(stepped)
        anyone = jnp.any(jnp.concatenate([alive[role] for role in self.roles]))
        reset = (time >= self.length) | ~anyone
        obs, state_after = where(reset, self.reset(key_reset, params), (final_observation, stepped))
        info = {
            "acted": state.alive,
            "reset": reset,
            "final_observation": final_observation,
            "episode": {"return": total, "length": time},
        }
        return obs, state_after, reward, terminated, truncated, info

    def _draw(self, key):
        names = list(self.roles)
        return {
            role: jax.random.uniform(jax.random.fold_in(key, i), (self.num_agents(role), 2), minval=-1.0)
            for i, role in enumerate(names)
        }

    def _observe(self, state):
        # Off-centre and at odd scales, so that normalising matters; the last entry never varies.
        def observe(target):
            left = jnp.full((target.shape[0], 1), 1.0 - state.time.astype(jnp.float32) / self.length)
            return jnp.concatenate([5.0 + 20.0 * target[:, :1], target[:, 1:], left, jnp.ones_like(left)], axis=1)

        return {role: observe(target) for role, target in state.target.items()}


def _score(space, action, target):
    if isinstance(space, Discrete):  # the quadrant of the target, if there are four
        right = (target[:, 0] > 0).astype(jnp.int32) + 2 * (target[:, 1] > 0).astype(jnp.int32)
        return (action == right).astype(jnp.float32)
    if isinstance(space, MultiDiscrete):  # the sign of each coordinate
        return jnp.mean((action == (target > 0).astype(jnp.int32)).astype(jnp.float32), axis=1)
    middle, half = 0.5 * (space.high + space.low), 0.5 * (space.high - space.low)
    error = (action - middle) / half - 0.8 * target
    return 1.0 - jnp.mean(jnp.square(error), axis=1)


class ToyCarry(Record):
    state: ToyState
    key: jax.Array  # [E]
    count: jax.Array  # [] steps so far


class ToyMarkets:
    """The interface of `jaxarena.env.wrappers.Markets`, the market axis last."""

    def __init__(self, env, num_markets):
        self.env, self.num_markets = env, num_markets

    def reset(self, key, params):
        keys = jax.random.key_data(jax.random.split(key, self.num_markets))
        obs, state = jax.vmap(lambda k: self.env.reset(jax.random.wrap_key_data(k), params), out_axes=-1)(keys)
        return obs, ToyCarry(state, keys, jnp.int32(0))

    def step(self, carry, action, params):
        def step(key, state, action):
            key = jax.random.fold_in(jax.random.wrap_key_data(key), carry.count)
            return self.env.step(key, state, action, params)

        out = jax.vmap(step, in_axes=(0, -1, -1), out_axes=-1)(carry.key, carry.state, action)
        obs, state, *rest = out
        return obs, ToyCarry(state, carry.key, carry.count + 1), *rest
