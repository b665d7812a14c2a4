"""The JaxMARL bridge: its contract, auto-reset and LogWrapper, the native trajectory bit for bit, deaths and errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jaxmarl")

from jaxmarl.environments import spaces
from jaxmarl.environments.multi_agent_env import MultiAgentEnv
from jaxmarl.wrappers.baselines import CTRolloutManager, LogWrapper

from bridges import jaxmarl_env
from bridges.jaxmarl_env import MarketJaxMARL
from tests.bridges.pages import assert_extra_is_named, run_page
from tests.bridges.short_markets import market
from tests.env import test_endings as crash

pytestmark = pytest.mark.bridge
STEPS, MARKETS = 26, 3
MARKET_NAMES = ["PlantedSignal-v0", "crashing"]


def keys():
    """One key per step and market, old style, as JaxMARL's scripts use them."""
    words = jax.random.split(jax.random.PRNGKey(3), STEPS * MARKETS)
    return words.reshape(STEPS, MARKETS, 2)


@functools.cache
def record(name):
    """A random rollout through JaxMARL's `step` and `LogWrapper`; every leaf `[T, E, ...]`.

    `unreset` and `fresh` are what `step_env` and `reset` give for the keys into which `step` splits its own.
    """
    market_env, params = market(name)

    @jax.jit
    def play(params, step_keys):
        env = MarketJaxMARL((market_env, params))
        logged = LogWrapper(env)

        def actions_of(key):
            """Extreme ones, so that the bold are bold."""
            own = dict(zip(env.agents, jax.random.split(key, env.num_agents), strict=True))
            return {a: jnp.sign(x) if name == "crashing" else x for a, x in (draw(env, a, k) for a, k in own.items())}

        def step(key, state):
            actions = actions_of(key)
            key_step, key_reset = jax.random.split(key)
            unreset = env.step_env(key_step, state.env_state, actions)
            fresh = env.reset(key_reset)[0]
            obs, state, reward, dones, info = logged.step(key, state, actions)
            told = {"obs": obs, "reward": reward, "dones": dones, "info": info, "actions": actions}
            told["seen"] = env.get_obs(state.env_state)
            return state, told | {"unreset": unreset[0], "fresh": fresh, "alive": unreset[1].accounts.alive}

        first, state = jax.vmap(logged.reset)(step_keys[0])
        return first, jax.lax.scan(lambda s, k: jax.vmap(step)(k, s), state, step_keys)[1]

    return jax.tree.map(np.asarray, play(params, keys()))


def draw(env, agent, key):
    return agent, env.action_space(agent).sample(key)


@pytest.mark.parametrize("name", MARKET_NAMES)
def test_observations_and_actions_lie_in_jaxmarls_spaces(name):
    env, (first, told) = MarketJaxMARL(market(name)), record(name)
    assert isinstance(env, MultiAgentEnv)
    assert sorted(env.agents) == env.agents
    assert env.num_agents == len(env.agents)
    assert {agent for ids in env.agent_classes.values() for agent in ids} == set(env.agents)
    for agent in env.agents:
        space = env.observation_space(agent)
        assert first[agent].shape == (MARKETS, *space.shape)
        for seen in (told["obs"], told["unreset"], told["fresh"]):
            assert seen[agent].dtype == np.float32
            assert seen[agent].shape == (STEPS, MARKETS, *space.shape)
            assert space.contains(seen[agent])
        assert env.action_space(agent).contains(told["actions"][agent]).all()
        chex.assert_shape([told["reward"][agent], told["dones"][agent]], (STEPS, MARKETS))
        assert np.isfinite(told["reward"][agent]).all()
    assert set(told["dones"]) == {*env.agents, "__all__"}
    chex.assert_shape(list(told["info"].values()), (STEPS, MARKETS, env.num_agents))


@pytest.mark.parametrize("name", MARKET_NAMES)
def test_step_resets_where_the_episode_is_over_and_only_there(name):
    env, (_, told) = MarketJaxMARL(market(name)), record(name)
    over = told["dones"]["__all__"]
    assert over.any(axis=0).all()
    assert not over.all(axis=0).any()
    for agent in env.agents:
        expected = np.where(over[..., None], told["fresh"][agent], told["unreset"][agent])
        np.testing.assert_array_equal(told["obs"][agent], expected)
        np.testing.assert_array_equal(told["obs"][agent], told["seen"][agent])
        assert told["dones"][agent][over].all()


@pytest.mark.parametrize("name", MARKET_NAMES)
def test_the_log_wrapper_tells_the_sums_of_finished_episodes(name):
    env, (_, told) = MarketJaxMARL(market(name)), record(name)
    info, over = told["info"], told["dones"]["__all__"]
    np.testing.assert_array_equal(info["returned_episode"], np.repeat(over[..., None], env.num_agents, axis=2))
    reward = np.stack([told["reward"][agent] for agent in env.agents], axis=-1)
    for e in range(MARKETS):
        begin, earned = 0, np.zeros(env.num_agents)
        for t in range(STEPS):
            if over[t, e]:
                begin, earned, length = t + 1, reward[begin : t + 1, e].sum(0), t + 1 - begin
                assert (info["returned_episode_lengths"][t, e] == length).all()
            np.testing.assert_allclose(info["returned_episode_returns"][t, e], earned, atol=1e-5)
        assert begin > 0


@pytest.mark.parametrize("name", MARKET_NAMES)
def test_done_is_death_or_the_end_and_stays(name):
    market_env, _ = market(name)
    env, (_, told) = MarketJaxMARL(market(name)), record(name)
    rows = np.concatenate([np.arange(market_env.total_agents)[market_env.agent_slice(r)] for r in env.agent_classes])
    alive, over, info = told["alive"][..., rows], told["dones"]["__all__"], told["info"]
    dones = np.stack([told["dones"][agent] for agent in env.agents], axis=-1)
    np.testing.assert_array_equal(dones, ~alive | over[..., None])
    np.testing.assert_array_equal(info["acted"][1:], ~dones[:-1] | over[:-1, :, None])
    np.testing.assert_array_equal(info["terminated"], info["acted"] & ~alive)
    np.testing.assert_array_equal(info["truncated"], alive & over[..., None])
    reward = np.stack([told["reward"][agent] for agent in env.agents], axis=-1)
    assert (reward[~info["acted"]] == 0.0).all()
    assert (~info["acted"]).any() == (name == "crashing")


@pytest.mark.parametrize("name", MARKET_NAMES)
def test_the_trajectory_is_the_native_one_bit_for_bit(name):
    """With the same keys and batch, `params` an argument on both sides; resets where JaxMARL's `step` makes them."""
    market_env, params = market(name)
    env, (first, told) = MarketJaxMARL(market(name)), record(name)
    by_role = {
        role: np.stack([told["actions"][agent] for agent in ids], axis=2) for role, ids in env.agent_classes.items()
    }

    @jax.jit
    def play(params, step_keys, actions):
        def step(key, state, action):
            key_step, key_reset = jax.random.split(key)
            obs, state, reward, terminated, truncated, info = market_env.step_env(key_step, state, action, params)
            fresh = market_env.reset(key_reset, params)[1]
            after = jax.tree.map(lambda a, b: jnp.where(info["reset"], a, b), fresh, state)
            return after, (obs, reward, terminated, truncated, info["equity"])

        obs, state = jax.vmap(market_env.reset, in_axes=(0, None))(step_keys[0], params)
        inputs = (step_keys, actions)
        return obs, jax.lax.scan(lambda s, xs: jax.vmap(step)(xs[0], s, xs[1]), state, inputs)[1]

    begun, native = jax.tree.map(np.asarray, play(params, keys(), by_role))
    obs, reward, terminated, truncated, equity = native
    column = 0
    for role, ids in env.agent_classes.items():
        for i, agent in enumerate(ids):
            np.testing.assert_array_equal(first[agent], begun[role][:, i])
            np.testing.assert_array_equal(told["unreset"][agent], obs[role][:, :, i])
            np.testing.assert_array_equal(told["reward"][agent], reward[role][:, :, i])
            np.testing.assert_array_equal(told["info"]["terminated"][..., column], terminated[role][:, :, i])
            np.testing.assert_array_equal(told["info"]["truncated"][..., column], truncated[role][:, :, i])
            money = equity[..., market_env.agent_slice(role)][..., i] / params.quanta_per_unit
            np.testing.assert_allclose(told["info"]["equity"][..., column], money, rtol=1e-6)
            column += 1


def test_one_bankrupt_agent_is_done_and_the_others_play_on():
    """All in before the first crash is ruin on its bar; who holds nothing lives to the time limit."""
    env = MarketJaxMARL(market("crashing"))
    _, state = env.reset(jax.random.key(0))
    done, told = [], []
    for t in range(crash.LENGTH):
        actions = dict.fromkeys(env.agents, jnp.full(1, jnp.nan))
        if t == 0:
            actions["bold_000"] = jnp.ones(1)
        _, state, rewards, dones, info = env.step(jax.random.key(t + 1), state, actions)
        done.append([bool(dones[agent]) for agent in [*env.agents, "__all__"]])
        told.append(info)
        assert (t > crash.FIRST) <= (float(rewards["bold_000"]) == 0.0)
    last = crash.LENGTH - 1
    assert done == [[t >= crash.FIRST, *[t == last] * 3] for t in range(crash.LENGTH)]
    assert [bool(info["terminated"][0]) for info in told] == [t == crash.FIRST for t in range(crash.LENGTH)]
    assert told[last]["truncated"].tolist() == [False, True, True]
    assert float(told[last]["equity"][0]) < 0.02 * 50_000.0
    np.testing.assert_allclose(told[last]["equity"][1:], 50_000.0, rtol=1e-3)
    assert told[crash.FIRST]["liquidated"].tolist() == [True, False, False]
    assert told[1]["actions_clipped"].tolist() == [1, 1, 1]
    assert int(state.step) == 0


def test_step_begins_at_a_given_state():
    env = MarketJaxMARL(market("crashing"))
    _, start = env.reset(jax.random.key(0))
    _, given = env.reset(jax.random.key(1))
    given = given.replace(flow=jnp.full(1, 0.25))
    idle = dict.fromkeys(env.agents, jnp.full(1, jnp.nan))
    _, after, *_ = env.step(jax.random.key(2), start.replace(step=jnp.int32(crash.LENGTH - 1)), idle, given)
    chex.assert_trees_all_equal(after, given)


def program(function, *arguments):
    return len(jax.jit(function).lower(*arguments).as_text())


def test_params_are_an_argument_when_the_instance_is_made_inside():
    """The history of `StockReplay-v0` is in the program otherwise, two characters per byte or more."""
    market_env, params = market("StockReplay-v0")
    held = params.process.recording.ticks.nbytes
    key, fixed = jax.random.key(0), MarketJaxMARL((market_env, params))

    def rollout(env, key):
        state = env.reset(key)[1]
        return env.step(key, state, dict.fromkeys(env.agents, jnp.zeros(3)))[2]

    inside = program(lambda params, key: rollout(MarketJaxMARL((market_env, params)), key), params, key)
    outside = program(lambda key: rollout(fixed, key), key)
    assert outside - inside > 2 * held > 100_000


def test_spaces_are_jaxmarls():
    env = MarketJaxMARL(market("PlantedSignal-v0"))
    assert env.agents == [f"trader_{i:03d}" for i in range(8)]
    assert env.agent_classes == {"trader": env.agents}
    assert isinstance(env.action_space("trader_007"), spaces.Discrete)
    assert env.action_space("trader_007").n == 3
    assert isinstance(env.observation_space("trader_007"), spaces.Box)
    box = MarketJaxMARL(market("StockReplay-v0")).action_space("trader_000")
    assert (box.low, box.high, box.shape) == (-1.0, 1.0, (3,))
    many = jaxmarl_env._space(jaxmarl_env.spaces.MultiDiscrete((2, 5)))
    assert many.shape == (2,)
    assert many.num_categories.tolist() == [2, 5]


def test_masks_allow_everything_and_exist_for_discrete_actions_only():
    env = MarketJaxMARL(market("PlantedSignal-v0"))
    masks = env.get_avail_actions(env.reset(jax.random.key(0))[1])
    assert set(masks) == set(env.agents)
    assert masks["trader_000"].tolist() == [True] * 3
    with pytest.raises(ValueError, match="'bold_000' has actions in Box"):
        MarketJaxMARL(market("crashing")).get_avail_actions(None)


def test_actions_may_have_axes_of_length_one_and_must_be_complete():
    env = MarketJaxMARL(market("PlantedSignal-v0"))
    _, state = env.reset(jax.random.key(0))
    plain = {agent: jnp.int32(i % 3) for i, agent in enumerate(env.agents)}
    results = [
        env.step_env(jax.random.key(1), state, actions)
        for actions in (plain, jax.tree.map(lambda x: x.reshape(1), plain))
    ]
    chex.assert_trees_all_equal(*results)
    assert len({float(results[0][2][agent]) for agent in env.agents[:3]}) == 3
    del plain["trader_004"]
    with pytest.raises(ValueError, match=r"actions: missing for \['trader_004'\]"):
        env.step_env(jax.random.key(1), state, plain)


def test_jaxmarls_q_learning_manager_takes_it():
    env = MarketJaxMARL(market("PlantedSignal-v0"))
    manager = CTRolloutManager(env, batch_size=2)
    _, state = manager.batch_reset(jax.random.PRNGKey(0))
    actions = {agent: manager.batch_sample(jax.random.PRNGKey(1), agent) for agent in env.agents}
    obs, _, rewards, dones, _ = manager.batch_step(jax.random.PRNGKey(2), state, actions)
    assert obs["__all__"].shape == (2, 8 * 9)
    assert obs["trader_000"].shape == (2, 9 + 8)
    assert not dones["__all__"].any()
    np.testing.assert_allclose(rewards["__all__"], sum(rewards[agent] for agent in env.agents), rtol=1e-6)


def test_unknown_markets_are_refused():
    with pytest.raises(ValueError, match="PlantedSignal-v0"):
        MarketJaxMARL("PlantedSignall-v0")


def test_without_the_package_the_extra_is_named(monkeypatch):
    assert_extra_is_named(monkeypatch, jaxmarl_env, "jaxmarl.environments.multi_agent_env", "jaxmarl")


def test_the_example_of_the_page_runs():
    space = run_page("jaxmarl.md")
    assert int(space["episodes"]) == 256
    assert float(space["mean_return"]) == pytest.approx(0.32, abs=0.01)
