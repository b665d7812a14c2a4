"""PPO on the toy environment: it learns, it is one pure function, it refuses what does not fit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete
from jaxarena.learn.ppo import PPO, PPOConfig
from jaxarena.learn.rollout import collect
from tests.learn.toy import ToyEnv, ToyMarkets, ToyParams
from tests.reference import gae as reference

PARAMS = ToyParams(jnp.float32(0.02))
SMALL = PPOConfig(rollout_length=8, minibatches=2, epochs=2, hidden=(8,), lr=3e-3)
TWO_ROLES = {"a": (2, Discrete(4)), "b": (1, Discrete(4))}


def make(config=SMALL, roles=None, policies=None, num_markets=4):
    return PPO(ToyEnv(roles), PARAMS, policies, config, num_markets, ToyMarkets)


@functools.cache
def compiled(ppo):
    return jax.jit(ppo.update_chunk, static_argnums=2)


def run(ppo, state, updates, total=8):
    return compiled(ppo)(state, PARAMS, updates, total)


def start(ppo, seed=0):
    return jax.jit(ppo.init)(jax.random.key(seed), PARAMS)


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.slow
@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete((2, 2)), Box(-1.0, 3.0, 2)], ids=str)
def test_learns_each_action_space(space):
    roles = {"a": (2, space), "b": (1, space)}
    config = PPOConfig(rollout_length=32, hidden=(32, 32), lr=3e-3)
    ppo = make(config, roles, {"shared": ["a", "b"]}, 32)
    state = start(ppo)
    state, _ = run(ppo, state, 100, 100)
    act = ppo.policy({name: group.policy for name, group in state.groups.items()}, deterministic=True)
    record = lambda step: (step.reward, step.info["acted"])  # noqa: E731
    _, _, (reward, acted) = jax.jit(
        lambda: collect(ppo.markets, PARAMS, act, state.markets, state.obs, jax.random.key(1), 50, record)
    )()
    for role in roles:
        assert float(jnp.sum(reward[role]) / jnp.sum(acted[role])) >= 0.95


@pytest.mark.slow
def test_two_and_two_updates_are_four_bit_for_bit():
    ppo = make(roles=TWO_ROLES)
    begin = start(ppo)
    two = functools.partial(run, ppo, updates=2)
    middle, first = two(begin)
    restored = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), middle)  # through the host, as a checkpoint
    end, second = two(restored)
    expected, metrics = run(ppo, begin, 4)
    assert_equal(end, expected)
    assert_equal(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), metrics)
    assert int(end.update) == 4


@pytest.mark.slow
def test_seeds_by_vmap_equal_single_runs():
    ppo = make(roles=TWO_ROLES)
    keys = jax.random.split(jax.random.key(3), 2)
    states = jax.jit(jax.vmap(ppo.init, in_axes=(0, None)))(keys, PARAMS)
    together, metrics = jax.jit(jax.vmap(lambda state: ppo.update_chunk(state, PARAMS, 2, 8)))(states)
    for seed in range(2):
        alone, alone_metrics = run(ppo, jax.jit(ppo.init)(keys[seed], PARAMS), 2)
        pick = functools.partial(jax.tree.map, lambda leaf, i=seed: leaf[i])
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        jax.tree.map(close, pick(together.groups), alone.groups)
        jax.tree.map(close, pick(metrics), alone_metrics)
    first, second = (jax.tree.leaves(together.groups["a"].policy.params)[-1][i] for i in range(2))
    assert not np.array_equal(first, second)


def test_chunks_of_a_minibatch_add_up():
    whole, parts = (dataclasses.replace(SMALL, chunk_rows=rows) for rows in (1000, 4))
    states = [run(make(config), start(make(config)), 1)[0] for config in (whole, parts)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    # The same blocks only where the blocks are equal: compare against a plan with the same split.
    assert make(whole)._plans["one"].splits == make(parts)._plans["one"].splits
    assert make(whole)._plans["one"].chunks < make(parts)._plans["one"].chunks
    jax.tree.map(close, states[0].groups, states[1].groups)


def test_compiles_once_per_shape():
    ppo = make()
    update = jax.jit(lambda state, total: ppo.update_chunk(state, PARAMS, 1, total))
    state = start(ppo)
    for total in (5, 7, 9):
        state, _ = update(state, total)
    assert update._cache_size() == 1


def test_learning_rate_anneals_to_zero():
    ppo = make()
    state, metrics = run(ppo, start(ppo), 5, total=4)
    np.testing.assert_allclose(metrics["lr"], SMALL.lr * np.array([1.0, 0.75, 0.5, 0.25, 0.0]), rtol=1e-6)
    assert_equal(run(ppo, state, 1, total=4)[0].groups["one"].policy.params, state.groups["one"].policy.params)


def test_rows_carry_ends_of_episodes_and_their_bootstrap():
    ppo = make(dataclasses.replace(SMALL, rollout_length=25), roles=TWO_ROLES, policies={"g": ["a", "b"]})
    state = start(ppo)
    policies = {"g": state.groups["g"].policy}
    group = ppo.groups[0]

    def record(step):
        return ppo._rows(policies, step)["g"], step.info["final_observation"], step.next_obs

    params = ToyParams(jnp.float32(0.15))
    _, _, (rows, final, after) = collect(
        ppo.markets, params, ppo.policy(policies), state.markets, state.obs, jax.random.key(1), 25, record
    )
    ended = np.asarray(rows.reset[:, None] & rows.acted & ~rows.terminated)
    assert ended.any()
    assert np.asarray(rows.reset[:, None] & ~rows.acted).any()  # someone was dead before the reset
    assert np.asarray(rows.terminated & ~rows.reset[:, None]).any()  # and others played on
    expected = jax.vmap(lambda obs: group.value(policies["g"], group.observe(obs)))(final)
    np.testing.assert_allclose(np.asarray(rows.final_value)[ended], np.asarray(expected)[ended], rtol=1e-4, atol=1e-5)
    later = jax.vmap(lambda obs: group.value(policies["g"], group.observe(obs)))(after)
    np.testing.assert_allclose(rows.choice.value[1:], later[:-1], rtol=1e-4, atol=1e-5)
    assert (np.asarray(rows.cut) == np.asarray(rows.terminated | rows.reset[:, None])).all()


def test_critic_starts_from_the_advantages_of_the_oracle(monkeypatch):
    """The advantages PPO learns from are those of the oracle, fed with the final observation's value."""
    from jaxarena.learn import losses

    seen = {}
    inner = losses.gae

    def spy(reward, value, next_value, terminated, cut, gamma, lam):
        result = inner(reward, value, next_value, terminated, cut, gamma, lam)
        seen.update(reward=reward, value=value, next_value=next_value, terminated=terminated, cut=cut, result=result)
        return result

    monkeypatch.setattr(losses, "gae", spy)
    config = dataclasses.replace(SMALL, rollout_length=24)
    ppo = make(config)
    state = start(ppo)

    def outputs(state):
        ppo._update(state, PARAMS, jnp.float32(4.0))
        return dict(seen)

    arrays = {name: np.asarray(value) for name, value in jax.jit(outputs)(state).items()}
    assert arrays["cut"].any()
    for market in range(4):
        row = {name: value[:, 0, market] for name, value in arrays.items()}
        result = row.pop("result")
        expected = reference.advantages(**row, gamma=config.gamma, lam=config.gae_lambda)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_metrics_count_what_happened():
    ppo = make(roles=TWO_ROLES, num_markets=8)
    _, metrics = run(ppo, start(ppo), 6)
    assert set(metrics["role"]) == {"a", "b"}
    assert set(metrics["group"]) == {"a", "b"}
    assert (np.asarray(metrics["agent_steps"]) <= ppo.agent_steps_per_update).all()
    assert int(metrics["episodes"].sum()) >= 8 * 6 * 8 // 10 - 8  # of length 10 at most
    lengths = np.asarray(metrics["episode_length"])[np.asarray(metrics["episodes"]) > 0]
    assert ((lengths > 1) & (lengths <= 10)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))


def test_evaluation_needs_no_market_axis_and_no_randomness():
    ppo = make(roles={"a": (2, Box(-1.0, 1.0, 3)), "b": (1, MultiDiscrete((2, 2)))})
    state = start(ppo)
    act = ppo.policy({name: group.policy for name, group in state.groups.items()}, deterministic=True)
    single = {role: obs[..., 0] for role, obs in state.obs.items()}
    first, second = (act(jax.random.key(seed), single)[0] for seed in (0, 1))
    assert_equal(first, second)
    assert {role: action.shape for role, action in first.items()} == {"a": (2, 3), "b": (1, 2)}
    batched = act(jax.random.key(0), state.obs)[0]
    assert {role: action.shape for role, action in batched.items()} == {"a": (2, 3, 4), "b": (1, 2, 4)}
    np.testing.assert_allclose(batched["a"][..., 0], first["a"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"g": ["a", "bb"]}, "did you mean 'b'"),
        ({"g": ["a"], "h": ["b", "a"]}, "already in 'g'"),
        ({"g": ["a"]}, "no group for learned role"),
        ({"g": ["a", "b"], "h": []}, "no role given"),
    ],
)
def test_refuses_a_bad_map_of_policies(policies, message):
    with pytest.raises(ValueError, match=message):
        make(roles=TWO_ROLES, policies=policies)


def test_refuses_roles_of_unequal_spaces_in_one_group():
    with pytest.raises(ValueError, match="groups of their own"):
        make(roles={"a": (1, Discrete(4)), "b": (1, Box(0.0, 1.0, 2))}, policies={"g": ["a", "b"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "ppo.lr"),
        ({"gamma": 1.5}, "ppo.gamma"),
        ({"lr": float("nan")}, "ppo.lr"),
        ({"hidden": ()}, "ppo.hidden"),
        ({"hidden": (64, 0)}, "ppo.hidden"),
        ({"activation": "gelu"}, "known: relu, tanh"),
        ({"minibatches": 3}, "choose a divisor"),
        ({"chunk_rows": 0}, "ppo.chunk_rows"),
    ],
)
def test_refuses_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        make(dataclasses.replace(SMALL, **change))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of gymnax's own imports
def test_reference_ppo_solves_cartpole():
    from benchmarks.reference_ppo import run as reference_run

    result = reference_run(num_envs=32, rollout_length=64, updates=250, lr=2.5e-3)
    assert np.mean(result["returns"][-10:]) >= 475.0
    assert result["env_steps_per_s"] > 0.0
