"""The contract of the environment, on every preset."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena.core.draws import fold_in
from jaxarena.core.spaces import Box
from jaxarena.env.causality import assert_causal
from jaxarena.env.env import MarketEnv
from jaxarena.env.wrappers import Markets

PRESETS = jaxarena.registered()
LENGTH = 12


@functools.cache
def short(preset):
    """The preset with episodes of `LENGTH` steps, and its compiled functions."""
    chex.clear_trace_counter()
    env, params = jaxarena.make(preset)
    params = params.replace(episode_length=jnp.int32(LENGTH))
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    return env, params, jax.jit(env.reset), step


@pytest.fixture(params=PRESETS, scope="module")
def market(request):
    return short(request.param)


def episode(market, steps, seed=0):
    """Keys, actions, and what reset and `step` returned."""
    env, params, reset, step = market
    key = jax.random.key(seed)
    obs, state = reset(key, params)
    rows = [(None, None, (obs, state))]
    for t in range(steps):
        step_key = fold_in(key, t)
        action = env.sample_actions(fold_in(step_key, 7))
        result = step(step_key, state, action, params)
        state = result[1]
        rows.append((step_key, action, result))
    return rows


def test_observations_lie_in_their_space_and_rewards_are_finite(market):
    env, params, _, _ = market
    for _, action, result in episode(market, LENGTH + 3)[1:]:
        obs, _, reward, terminated, truncated, info = result
        for role in env.learned_roles:
            n, space = env.num_agents(role), env.observation_space(role, params)
            assert obs[role].shape == (n, space.size)
            assert obs[role].dtype == jnp.float32
            assert bool(space.contains(obs[role]).all())
            assert bool(space.contains(info["final_observation"][role]).all())
            assert bool(env.action_space(role, params).contains(action[role]).all())
            chex.assert_tree_all_finite(reward[role])
            chex.assert_shape([reward[role], terminated[role], truncated[role], info["acted"][role]], (n,))


def test_layout_covers_the_observation(market):
    env, params, _, _ = market
    for role in env.learned_roles:
        slices = list(env.observation_layout(role).values())
        assert slices[0].start == 0
        assert all(a.stop == b.start for a, b in itertools.pairwise(slices))
        assert slices[-1].stop == env.observation_space(role, params).size


def test_audit_is_zero_at_every_step(market):
    env, params, _, _ = market
    for _, _, result in episode(market, 2 * LENGTH + 2):
        cash, lots = env.audit(result[1], params)
        assert cash == 0
        assert lots == [0] * len(env.asset_names)


def test_time_limit_is_truncation_and_the_final_observation_is_the_one_before_the_reset(market):
    env, params, reset, _ = market
    rows = episode(market, LENGTH + 1)
    step_key, action, result = rows[LENGTH]
    obs, state, _, terminated, truncated, info = result
    assert bool(info["reset"])
    assert int(info["episode"]["length"]) == LENGTH
    unreset, before, *_ = jax.jit(env.step_env)(fold_in(step_key, 0), rows[LENGTH - 1][2][1], action, params)
    assert int(before.step) == LENGTH
    fresh, _ = reset(fold_in(step_key, 1), params)
    for role in env.learned_roles:
        assert not bool(terminated[role].any())
        assert bool(truncated[role].all())
        np.testing.assert_allclose(info["final_observation"][role], unreset[role], atol=1e-5)
        np.testing.assert_allclose(obs[role], fresh[role], atol=1e-6)
    assert int(state.step) == 0
    _, _, (_, _, _, terminated, truncated, info) = rows[LENGTH + 1]
    assert not bool(info["reset"])
    assert not any(bool(truncated[role].any() | terminated[role].any()) for role in env.learned_roles)


def test_nothing_depends_on_the_future(market):
    env, params, _, _ = market
    assert_causal(env, params, jax.random.key(3), steps=LENGTH - 2, at=LENGTH // 2)


def test_the_same_seed_gives_the_same_bits_and_compiles_once(market):
    first, second = episode(market, 5, seed=1)[-1], episode(market, 5, seed=1)[-1]
    chex.assert_trees_all_equal(first[2], second[2])


def test_invalid_actions_are_masked_and_counted(market):
    env, params, reset, _ = market
    _, state = reset(jax.random.key(0), params)
    step = jax.jit(env.step_env)
    role = env.learned_roles[0]
    valid = env.sample_actions(jax.random.key(1))
    box = isinstance(env.action_space(role), Box)
    for bad, does_nothing in ((jnp.nan, True), (jnp.inf, True), (50.0, False)) if box else ((-1, True), (99, True)):
        action = valid | {role: jnp.full_like(valid[role], bad)}
        obs, after, *_, info = step(jax.random.key(2), state, action, params)
        rows = env.agent_slice(role)
        assert bool((info["actions_clipped"][rows] > 0).all())
        chex.assert_tree_all_finite(obs)
        if does_nothing:
            assert not bool(info["lots"][rows].any())
        assert env.audit(after, params)[0] == 0
    *_, info = step(jax.random.key(2), state, valid, params)
    assert not bool(info["actions_clipped"].any())


def test_markets_equal_a_loop_over_single_markets(market):
    """Same keys one by one: integers of the ledger equal where prices are, floats to rounding."""
    env, params, reset, _ = market
    markets, steps = Markets(env, 3), LENGTH + 3
    key = jax.random.key(5)
    obs, carry = jax.jit(markets.reset)(key, params)
    batched = jax.jit(markets.step)
    single = jax.jit(env.step_env)
    episodes, states = [0, 0, 0], []
    for i in range(3):
        first, state = reset(fold_in(fold_in(fold_in(key, i), 0), 0), params)
        states.append(state)
        for role in env.learned_roles:
            np.testing.assert_allclose(obs[role][..., i], first[role], atol=1e-4)
    for t in range(steps):
        action = markets.sample_actions(fold_in(key, 100 + t))
        obs, carry, reward, terminated, truncated, info = batched(carry, action, params)
        for i in range(3):
            episode_key = fold_in(fold_in(key, i), episodes[i])
            own = jax.tree.map(lambda x, i=i: x[..., i], action)
            step_key = fold_in(episode_key, states[i].step + 1)
            one, states[i], earned, died, cut, told = single(step_key, states[i], own, params)
            for role in env.learned_roles:
                final = info["final_observation"][role][..., i]
                np.testing.assert_allclose(final, one[role], atol=2e-3)
                np.testing.assert_allclose(reward[role][..., i], earned[role], atol=1e-5)
                np.testing.assert_array_equal(terminated[role][..., i], died[role])
                np.testing.assert_array_equal(truncated[role][..., i], cut[role])
            assert bool(info["reset"][i]) == bool(told["reset"])
            if bool(told["reset"]):
                episodes[i] += 1
                one, states[i] = reset(fold_in(fold_in(fold_in(key, i), episodes[i]), 0), params)
            for role in env.learned_roles:
                np.testing.assert_allclose(obs[role][..., i], one[role], atol=2e-3)
    assert batched._cache_size() == 1
    assert episodes == [1, 1, 1]
    assert [int(n) for n in carry.episode] == episodes


def test_scanned_steps_equal_called_steps_bit_for_bit(market):
    env, params, _, _ = market
    markets = Markets(env, 4)
    key = jax.random.key(6)
    _, start = jax.jit(markets.reset)(key, params)

    def advance(carry, t):
        _, carry, reward, *_ = markets.step(carry, markets.sample_actions(fold_in(key, t)), params)
        return carry, reward

    carry, called = start, []
    one = jax.jit(advance)
    for t in range(LENGTH + 2):
        carry, reward = one(carry, jnp.uint32(t))
        called.append(reward)
    scanned_carry, scanned = jax.jit(lambda c: jax.lax.scan(advance, c, jnp.arange(LENGTH + 2, dtype=jnp.uint32)))(
        start
    )
    chex.assert_trees_all_equal(scanned, jax.tree.map(lambda *rows: jnp.stack(rows), *called))
    chex.assert_trees_all_equal(scanned_carry.market.ledger, carry.market.ledger)


def test_permuting_agents_permutes_outputs(market):
    env, params, reset, _ = market
    role = env.learned_roles[0]
    rows, n = env.agent_slice(role), env.num_agents(role)
    order = np.random.default_rng(0).permutation(n)
    _, state = reset(jax.random.key(0), params)
    step = jax.jit(env.step_env)
    other = state
    for t in range(4):
        action = env.sample_actions(fold_in(jax.random.key(9), t))
        swapped = action | {role: action[role][order]}
        obs, state, reward, *_, info = step(fold_in(jax.random.key(0), t), state, action, params)
        obs2, other, reward2, *_, info2 = step(fold_in(jax.random.key(0), t), other, swapped, params)
        np.testing.assert_allclose(obs2[role], obs[role][order], atol=1e-4)
        np.testing.assert_allclose(reward2[role], reward[role][order], atol=1e-6)
        np.testing.assert_array_equal(info2["lots"][rows], info["lots"][rows][order])


def test_a_population_of_markets_differs_by_its_parameters():
    env, params = jaxarena.make("StockReplay-v0")
    axes = env.params_axes(params)
    spreads = jnp.array([0.0, 50.0])
    population = jax.tree.map(
        lambda axis, x: x if axis is None else jnp.stack([x, x]), axes, params, is_leaf=lambda x: x is None
    )
    population = population.replace(mechanism=population.mechanism.replace(half_spread_bps=spreads))
    assert population.process.recording.ticks.shape == params.process.recording.ticks.shape
    _, state = env.reset(jax.random.key(0), params)
    action = env.sample_actions(jax.random.key(1))
    step = jax.jit(jax.vmap(env.step_env, in_axes=(None, None, None, axes)))
    _, after, *_ = step(jax.random.key(2), state, action, population)
    assert bool((after.accounts.equity[0] >= after.accounts.equity[1]).all())
    assert bool((after.accounts.equity[0] > after.accounts.equity[1]).any())


def test_building_without_a_learned_role_is_refused():
    env, _params = jaxarena.make("Gbm-v0")
    from jaxarena.agents import Hold

    with pytest.raises(ValueError, match="at least one role must be learned"):
        MarketEnv.build(env.default_params.replace(roles=(env.roles[0].replace(strategy=Hold()),)))
