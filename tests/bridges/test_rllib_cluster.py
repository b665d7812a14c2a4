"""Several actors: runners with shares and streams of their own, learners that share a rollout, a kill, Tune."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import jax
import ray
import torch
from ray import tune
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from bridges.rllib import BatchedPPO, use_batched
from tests.bridges.test_rllib import pytestmark as of_rllib

pytestmark = [*of_rllib, pytest.mark.slow]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120


@pytest.fixture(scope="module", autouse=True)
def cluster():
    torch.set_num_threads(1)
    environment = {"env_vars": {"PYTHONPATH": ROOT}}
    ray.init(num_cpus=5, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    yield
    ray.shutdown()


def config(runners, learners, iterations_of_markets=32, **options):
    one = (
        PPOConfig()
        .environment("jaxarena/PlantedSignal-v0")
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=iterations_of_markets // max(1, runners),
            rollout_fragment_length=32,
        )
        .learners(num_learners=learners)
        .fault_tolerance(restart_failed_env_runners=True)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16], vf_share_layers=False))
        .training(
            train_batch_size_per_learner=iterations_of_markets * 32 // max(1, learners),
            minibatch_size=512,
            num_epochs=2,
            lr=1e-3,
            gamma=0.9,
            use_kl_loss=False,
        )
        .debugging(seed=0, log_level="ERROR")
    )
    return use_batched(one, **options)


def learner_weights(algorithm):
    state = algorithm.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]["trader"]
    return {name: value for name, value in state.items() if name.startswith(("pi", "encoder.actor"))}


def of_runners(algorithm, look):
    return algorithm.env_runner_group.foreach_env_runner(look, local_env_runner=False)


def runner_weights(runner):
    state = runner.get_state(components="rl_module")["rl_module"]["trader"]
    return {name: np.asarray(value) for name, value in state.items()}


def runner_key(runner):
    return runner.worker_index, np.asarray(jax.random.key_data(runner._key)).tolist()


def runner_platform(_):
    return jax.default_backend(), jax.config.jax_platforms


@pytest.mark.parametrize(("mode", "learners"), [("rollout", 0), ("rollout", 2), ("fused", 2), ("episodes", 2)])
def test_runners_and_learners_share_the_work(mode, learners):
    clip = {} if mode == "episodes" else {"observation_clip": 10.0}
    algorithm = config(2, learners, mode=mode, **clip).build_algo()
    for _ in range(3):
        result = algorithm.train()
    assert algorithm.env_runner_group.num_healthy_remote_workers() == 2
    if mode != "episodes":
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 3 * 32 * 32
        assert int(result["learners"]["trader"]["num_module_steps_trained"]) == 2 * 32 * 32 * 8
        keys = dict(of_runners(algorithm, runner_key))
        assert keys[1] != keys[2]
        assert of_runners(algorithm, runner_platform) == [("cpu", "cpu")] * 2
    wanted = learner_weights(algorithm)
    for own in of_runners(algorithm, runner_weights):
        for name, value in wanted.items():
            np.testing.assert_array_equal(own[name], value)
    algorithm.stop()


def test_a_killed_runner_comes_back_with_the_learners_weights_and_new_random_numbers():
    algorithm = config(2, 0).build_algo()
    algorithm.train()
    before = dict(of_runners(algorithm, runner_key))
    victim = algorithm.env_runner_group._worker_manager.actors()[1]
    ray.kill(victim, no_restart=False)
    sampled, deadline = [], time.monotonic() + 240
    while time.monotonic() < deadline:
        result = algorithm.train()
        sampled.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
        if algorithm.env_runner_group.num_healthy_remote_workers() == 2 and len(sampled) > 2:
            break
        time.sleep(1.0)
    algorithm.train()
    assert algorithm.env_runner_group.num_healthy_remote_workers() == 2
    assert sampled == [1024 * (2 + i) for i in range(len(sampled))], "no iteration was lost"
    after = dict(of_runners(algorithm, runner_key))
    assert after[2] == before[2]
    assert after[1] not in before.values()
    wanted = learner_weights(algorithm)
    for own in of_runners(algorithm, runner_weights):
        for name, value in wanted.items():
            np.testing.assert_array_equal(own[name], value)
    algorithm.stop()


@pytest.mark.parametrize(("mode", "trainable"), [("rollout", PPO), ("fused", BatchedPPO)])
def test_tune_searches(mode, trainable, tmp_path):
    one = config(0, 0)
    one.training(lr=tune.grid_search([1e-5, 3e-3]))
    tuner = tune.Tuner(
        trainable,
        param_space=use_batched(one, mode=mode),
        run_config=tune.RunConfig(stop={"training_iteration": 12}, storage_path=str(tmp_path), verbose=0),
    )
    results = {one.config["lr"]: one for one in tuner.fit()}
    assert not any(one.error for one in results.values())
    earned = {lr: one.metrics["env_runners"]["episode_return_mean"] for lr, one in results.items()}
    assert earned[3e-3] > 1.5 > earned[1e-5]
