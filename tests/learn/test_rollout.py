"""The collector, and the values of final observations."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.learn.rollout import collect, values_where
from tests.learn.toy import ToyEnv, ToyMarkets, ToyParams


def constant(key, obs):
    return {role: jnp.zeros(value.shape[::2], jnp.int32) for role, value in obs.items()}, jax.random.key_data(key)


def test_collect_is_a_loop_over_steps():
    markets, params = ToyMarkets(ToyEnv(length=3), 4), ToyParams(0.1)
    start_obs, start = markets.reset(jax.random.key(0), params)
    key = jax.random.key(1)
    record = lambda step: (step.obs["one"], step.next_obs["one"], step.reward["one"], step.extra)  # noqa: E731
    carry, obs, (seen, after, reward, extra) = jax.jit(
        lambda: collect(markets, params, constant, start, start_obs, key, 6, record)
    )()
    loop_obs, loop_carry = start_obs, start
    for t in range(6):
        np.testing.assert_allclose(seen[t], loop_obs["one"], rtol=1e-6)
        action, expected = constant(jax.random.fold_in(key, t), loop_obs)
        np.testing.assert_array_equal(extra[t], expected)
        loop_obs, loop_carry, loop_reward, *_ = markets.step(loop_carry, action, params)
        np.testing.assert_allclose(after[t], loop_obs["one"], rtol=1e-6)
        np.testing.assert_allclose(reward[t], loop_reward["one"], rtol=1e-6)
    np.testing.assert_allclose(obs["one"], loop_obs["one"], rtol=1e-6)
    assert int(carry.count) == 6


def test_values_where_evaluates_what_is_needed_and_only_that():
    obs = jax.random.normal(jax.random.key(0), (3, 2, 10))  # [D, N, E]
    critic = lambda x: jnp.sum(x, axis=0) + 1.0  # noqa: E731
    for count in (0, 1, 4, 5, 10):
        needed = jnp.zeros(10, bool).at[jax.random.permutation(jax.random.key(count), 10)[:count]].set(True)
        values = jax.jit(lambda needed: values_where(needed, obs, critic, 4))(needed)
        np.testing.assert_allclose(values, jnp.where(needed, critic(obs), 0.0), rtol=1e-6)
