"""The Stable-Baselines3 bridge: its own `DummyVecEnv` over native rows, its checker, and PPO that learns."""

import functools
import importlib.util
import sys

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from bridges import stable_baselines3 as bridge
from bridges.gymnasium_vector import MarketGymEnv, MarketVectorEnv
from bridges.stable_baselines3 import SB3VecEnv
from tests.bridges import test_gymnasium_vector as rows
from tests.bridges.pages import run_page

pytestmark = pytest.mark.bridge


def test_every_value_is_that_of_a_dummy_vec_env_over_native_rows():
    """Deaths that leave others alive, deaths that end an episode, time limits, idle rows; bit for bit."""
    ours = SB3VecEnv(MarketVectorEnv(rows.crashing(), rows.MARKETS))
    theirs = DummyVecEnv([functools.partial(rows.Replay, "agent", i) for i in range(ours.num_envs)])
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    ours.seed(rows.SEED)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert [info["equity"] for info in ours.reset_infos] == [50_000.0] * ours.num_envs
    kinds = set()
    for actions in rows.plan():
        played = rows.rows_of(actions, "agent")
        outcome, expected = ours.step(played), theirs.step(played)
        for mine, its in zip(outcome[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype
        for done, mine, its in zip(outcome[2], outcome[3], expected[3], strict=True):
            assert mine.keys() == its.keys()
            np.testing.assert_array_equal(mine.pop("terminal_observation", 0), its.pop("terminal_observation", 0))
            assert mine == its
            kinds.add((bool(done), mine["TimeLimit.truncated"], bool(mine["acted"])))
    assert kinds == {(False, False, True), (False, False, False), (True, False, True), (True, True, True)}


def test_attributes_seeds_and_wrappers():
    envs = SB3VecEnv(MarketVectorEnv(rows.short(), 2))
    assert envs.get_attr("render_mode") == [None] * 16
    assert envs.get_attr("num_envs", indices=[0, 3]) == [16, 16]
    assert not envs.has_attr("no_such_thing")
    assert envs.env_is_wrapped(gymnasium.Wrapper, indices=2) == [False]
    for refused in (lambda: envs.set_attr("x", 1), lambda: envs.env_method("reset")):
        with pytest.raises(ValueError, match=r"allowed is nothing: rows are not objects"):
            refused()

    def earned(seed):
        envs.seed(seed)
        envs.reset()
        return [envs.step(np.full(16, 2))[1].tolist() for _ in range(3)]

    assert earned(1) == earned(1) != earned(2)
    monitored = VecMonitor(envs)
    monitored.reset()
    for _ in range(6):
        *_, dones, infos = monitored.step(np.full(16, 2))
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [6] * 16
    envs.close()


@pytest.mark.filterwarnings("error")
def test_its_checker_accepts_a_single_market():
    check_env(MarketGymEnv(rows.crashing(1)))


@pytest.mark.filterwarnings("ignore:Your observation .* has an unconventional shape:UserWarning")
def test_its_checker_accepts_a_single_market_of_several_agents():
    """The observation is a matrix, of which it warns; its policies flatten it."""
    check_env(MarketGymEnv(rows.crashing(2)))


def test_ppo_trains_on_a_role_and_on_a_single_market():
    """Whole rollouts over deaths, matrices of observations, and the names that Gymnasium knows."""
    roles = SB3VecEnv(MarketVectorEnv(rows.crashing(), rows.MARKETS, view="role"))
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = PPO("MlpPolicy", roles, **settings).learn(128)
    assert {info["l"] for info in model.ep_info_buffer} <= set(range(1, rows.LENGTH + 1))
    single = gymnasium.make("jaxarena/PlantedSignal-v0")
    assert PPO("MlpPolicy", single, **settings).learn(16).num_timesteps == 16


def test_without_stable_baselines3_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    spec = importlib.util.spec_from_file_location("stable_baselines3_again", bridge.__file__)
    with pytest.raises(ImportError, match=r"pip install 'jaxarena\[sb3\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_the_page_runs_and_ppo_learns():
    space = run_page("stable_baselines3.md")
    assert abs(space["random"]) < 0.001
    assert space["learned"] > 0.0045
