"""The PettingZoo bridge: its own checkers, the native trajectory bit for bit, deaths, seeds and errors."""

import functools
import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

from bridges import pettingzoo_parallel
from bridges.pettingzoo_parallel import MarketParallelEnv
from jaxarena.env.wrappers import Markets
from tests.bridges.pages import assert_extra_is_named, run_page
from tests.bridges.short_markets import market
from tests.env import test_endings as crash

pytestmark = pytest.mark.bridge
IDLE, ALL_IN = np.full(1, np.nan, np.float32), np.ones(1, np.float32)


@functools.cache
def native(name):
    """`Markets` of one market, compiled without any help of the bridges."""
    markets = Markets(market(name)[0], 1)
    return markets, jax.jit(markets.reset), jax.jit(markets.step)


class Watched(MarketParallelEnv):
    """Counts bankruptcies that leave others alive. Seeded spaces, so that the checkers' samples are the same."""

    def __init__(self, market):
        super().__init__(market)
        self.deaths = 0
        for number, agent in enumerate(self.possible_agents):
            self.action_space(agent).seed(number)

    def step(self, actions):
        result = super().step(actions)
        self.deaths += sum(result[2].values()) if self.agents else 0
        return result


@pytest.mark.parametrize("name", ["PlantedSignal-v0", "StockReplay-v0", "crashing"])
def test_pettingzoos_own_checkers_pass(name):
    """In the crashing market agents die in mid-episode under the checkers' random actions."""
    watched = [Watched(market(name)), Watched(market(name))]
    parallel_api_test(watched[0], num_cycles=1000)
    api_test(parallel_to_aec(watched[1]), num_cycles=1000)
    parallel_seed_test(lambda: MarketParallelEnv(market(name)), num_cycles=50)
    assert [env.deaths > 0 for env in watched] == [name == "crashing"] * 2


def test_names_spaces_and_types():
    env = MarketParallelEnv("PlantedSignal-v0")
    assert env.possible_agents == [f"trader_{i:03d}" for i in range(8)]
    assert env.agents == []
    observations, infos = env.reset(seed=1)
    assert env.agents == env.possible_agents
    assert list(observations) == list(infos) == env.possible_agents
    assert env.action_space("trader_003").n == 3
    rewards, terminations, truncations, infos = env.step(dict.fromkeys(env.agents, 2))[1:]
    assert {type(value) for value in rewards.values()} == {float}
    assert {type(value) for told in (terminations, truncations) for value in told.values()} == {bool}
    assert {name: type(value) for name, value in infos["trader_000"].items()} == {
        "equity": float,
        "actions_clipped": int,
        "orders_trimmed": int,
        "orders_rejected": int,
        "liquidated": bool,
    }
    assert observations["trader_000"].flags.writeable


@pytest.mark.parametrize("name", ["PlantedSignal-v0", "crashing"])
def test_the_trajectory_is_the_native_one_bit_for_bit(name):
    """Over three episodes, deaths included, with the base key of the seed."""
    env, params = market(name)
    bridge, rng = MarketParallelEnv((env, params)), np.random.default_rng(0)
    markets, reset, step = native(name)
    first, carry = reset(jax.random.key(jnp.uint32(5)), params)
    places = [(role, i) for role in env.learned_roles for i in range(env.num_agents(role))]
    rows = dict(zip(bridge.possible_agents, places, strict=True))
    seen, _ = bridge.reset(seed=5)
    episodes = deaths = 0
    while episodes < 3:
        for agent, (role, i) in rows.items():
            if agent in seen:
                np.testing.assert_array_equal(seen[agent], first[role][i, :, 0])
        if name == "crashing":  # often all in
            actions = {agent: rng.uniform(-3, 3, 1) for agent in bridge.agents}
        else:
            actions = {agent: rng.integers(3) for agent in bridge.agents}
        batch = {role: np.array(array) for role, array in markets.sample_actions(jax.random.key(episodes)).items()}
        for agent, action in actions.items():
            role, i = rows[agent]
            batch[role][i, ..., 0] = action
        seen, rewards, terminations, truncations, infos = bridge.step(actions)
        first, carry, reward, terminated, truncated, told = step(carry, batch, params)
        for agent, (role, i) in rows.items():
            assert (agent in rewards) == bool(told["acted"][role][i, 0])
            if agent not in rewards:
                continue
            deaths += terminations[agent]
            assert rewards[agent] == float(reward[role][i, 0])
            assert terminations[agent] == bool(terminated[role][i, 0])
            assert truncations[agent] == bool(truncated[role][i, 0])
            equity = float(told["equity"][env.agent_slice(role)][i, 0])
            assert infos[agent]["equity"] == equity / params.quanta_per_unit
            np.testing.assert_array_equal(seen[agent], told["final_observation"][role][i, :, 0])
        assert (not bridge.agents) == bool(told["reset"][0])
        if not bridge.agents:
            episodes += 1
            seen, _ = bridge.reset()
    assert (deaths > 0) == (name == "crashing")


def test_one_bankrupt_agent_leaves_and_the_others_play_on():
    """All in before the first crash is ruin on its bar; who holds nothing lives to the time limit."""
    env = MarketParallelEnv(market("crashing"))
    env.reset(seed=0)
    for t in range(crash.LENGTH):
        actions = {agent: ALL_IN if (agent, t) == ("bold_000", 0) else IDLE for agent in env.agents}
        told = env.step(actions)
        everybody = ["bold_000", "bold_001", "wary_000"] if t <= crash.FIRST else ["bold_001", "wary_000"]
        assert [list(by_agent) for by_agent in told] == [everybody] * 5
        _, _, terminations, truncations, infos = told
        assert [agent for agent in everybody if terminations[agent]] == (["bold_000"] if t == crash.FIRST else [])
        assert set(truncations.values()) == {t == crash.LENGTH - 1} | ({False} if t <= crash.FIRST else set())
        if t == crash.FIRST:
            assert infos["bold_000"]["liquidated"]
            assert infos["bold_000"]["equity"] < 0.02 * 50_000.0
            with pytest.raises(ValueError, match=r"not in the game are \['bold_000'\]"):
                env.step(dict.fromkeys(everybody, IDLE))
        assert infos["bold_001"]["equity"] == pytest.approx(50_000.0, rel=1e-3)
        assert infos["bold_001"]["actions_clipped"] == 1
    assert env.agents == []


def test_the_episode_is_over_when_all_learned_agents_are_dead():
    env = MarketParallelEnv(market("crashing"))
    env.reset(seed=0)
    for t in range(crash.FIRST + 1):
        told = env.step(dict.fromkeys(env.agents, ALL_IN if t == 0 else IDLE))
    assert set(told[2].values()) == {True}
    assert set(told[3].values()) == {False}
    assert env.agents == []
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        env.step({})
    fresh, _ = env.reset()
    assert env.agents == env.possible_agents
    assert fresh["bold_000"].tolist() == [1, 0, 0, 0, 1, 0, 0]  # cash and nothing else


def test_reset_without_a_seed_begins_the_next_episode_and_skips_none():
    """Natively played to the end one after the other; here episode 1 is broken off and 2 is not played at all."""
    env, params = market("PlantedSignal-v0")
    _, reset, step = native("PlantedSignal-v0")
    obs, carry = reset(jax.random.key(jnp.uint32(9)), params)
    long, firsts, earned = {"trader": jnp.full((8, 1), 2)}, [], []
    for t in range(4 * 12):
        first = obs
        obs, carry, reward, *_ = step(carry, long, params)
        if t % 12 == 0:
            firsts.append(np.asarray(first["trader"][..., 0]))
            earned.append(float(reward["trader"][0, 0]))
    assert len(set(earned)) == 4
    bridge = MarketParallelEnv((env, params))
    for episode, steps in enumerate((12, 3, 0, 12)):
        seen, _ = bridge.reset(seed=9 if episode == 0 else None)
        np.testing.assert_array_equal(list(seen.values()), firsts[episode])
        rewards = [bridge.step(dict.fromkeys(bridge.agents, 2))[1]["trader_000"] for _ in range(steps)]
        assert rewards[:1] == earned[episode : episode + 1][:steps]
        assert (not bridge.agents) == (steps == 12)
    seen, _ = bridge.reset(seed=9)
    np.testing.assert_array_equal(list(seen.values()), firsts[0])


def test_the_first_reset_without_a_seed_draws_one(monkeypatch):
    monkeypatch.setattr(secrets, "randbits", {32: 9}.get)
    earned = []
    for seed in (None, 9, 10):
        env = MarketParallelEnv(market("PlantedSignal-v0"))
        env.reset(seed=seed)
        earned.append(env.step(dict.fromkeys(env.agents, 2))[1]["trader_000"])
    assert earned[0] == earned[1] != earned[2]


def test_the_state_is_all_observations_of_the_dead_too():
    env = MarketParallelEnv(market("crashing"))
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        env.state()
    observations, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.state(), np.concatenate(list(observations.values())))
    for t in range(crash.FIRST + 2):
        observations = env.step({agent: ALL_IN if agent == "bold_000" and t == 0 else IDLE for agent in env.agents})[0]
        assert env.state() in env.state_space
    assert list(observations) == ["bold_001", "wary_000"]
    np.testing.assert_array_equal(env.state()[7:], np.concatenate(list(observations.values())))
    assert env.state()[2] == -10.0  # the growth of the dead one, clipped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trader_002": None}, r"actions\['trader_002'\]: got object of shape \(\), allowed is Discrete\(3\)"),
        ({"trader_002": 1.0}, r"actions\['trader_002'\]: got float64"),
        ({"trader_002": np.array([1])}, r"got int64 of shape \(1,\)"),
        ({"trader_008": 1}, r"missing for \[\], not in the game are \['trader_008'\]"),
        ({"trader_000": ...}, r"missing for \['trader_000'\], not in the game are \[\]"),
    ],
)
def test_wrong_actions_are_refused(changes, message):
    env = MarketParallelEnv("PlantedSignal-v0")
    env.reset(seed=0)
    actions = dict.fromkeys(env.agents, 1) | changes
    with pytest.raises(ValueError, match=message):
        env.step({agent: action for agent, action in actions.items() if action is not ...})
    assert len(env.step(dict.fromkeys(env.agents, 1))[1]) == 8


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"render_mode: got 'human', allowed is None"):
        MarketParallelEnv("PlantedSignal-v0", render_mode="human")
    with pytest.raises(ValueError, match="PlantedSignal-v0"):
        MarketParallelEnv("PlantedSignall-v0")
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        MarketParallelEnv("PlantedSignal-v0").step({})


def test_without_the_package_the_extra_is_named(monkeypatch):
    assert_extra_is_named(monkeypatch, pettingzoo_parallel, "pettingzoo", "pettingzoo")


def test_the_example_of_the_page_runs():
    space = run_page("pettingzoo.md")
    earned = list(space["earned"].values())
    assert earned[:4] == pytest.approx([0.32] * 4, abs=0.05)
    assert earned[4:] == pytest.approx([0.0] * 4, abs=0.15)
