"""RLlib as its users run it: training in every mode, what is refused, restoring, callbacks, leagues, the page."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import jax
import ray
import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from bridges.rllib import FastPPOTorchLearner, policy_mapping, register_market, use_batched
from bridges.rllib.connectors import ObservationsToModule
from tests.bridges.pages import python_blocks
from tests.bridges.rllib_markets import two_roles

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # RLlib calls its own deprecated names
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # and leaves sockets of its actors open
    pytest.mark.filterwarnings("ignore:.*os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
BEST = 8 * 64 * 0.005  # eight agents, 64 steps, 0.5 % of the initial equity per step
MODES = ["episodes", "rollout", "fused"]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    register_market("TwoRoles-v0", two_roles)
    yield
    ray.shutdown()


def config(market="PlantedSignal-v0", markets=16, length=32, **training):
    settings = {"lr": 1e-3, "gamma": 0.9, "num_epochs": 4, "use_kl_loss": False, "entropy_coeff": 0.0} | training
    return (
        PPOConfig()
        .environment(f"jaxarena/{market}")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=markets, rollout_fragment_length=length)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16], vf_share_layers=False))
        .training(train_batch_size_per_learner=markets * length, minibatch_size=markets * length, **settings)
        .debugging(seed=0, log_level="ERROR")
    )


def built(of, **options):
    return use_batched(of, **options).build_algo()


def weights(algorithm):
    state = algorithm.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]
    return {f"{module}/{name}": value for module, own in state.items() for name, value in own.items()}


def equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", [{"mode": "rollout"}, {"mode": "fused"}], ids=["rollout", "fused"])
def test_learns_the_planted_signal(options):
    algorithm = built(config(markets=32), **options)
    for _ in range(24):
        result = algorithm.train()
    assert algorithm.env_runner.policy_backend == "jax"
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 24 * 32 * 32
    assert result["learners"]["trader"]["num_module_steps_trained"] == 4 * 32 * 32 * 8
    with_luck = [algorithm.env_runner.sample(num_episodes=64, explore=False) for _ in range(2)]
    earned = np.mean([episode.get_return() for part in with_luck for episode in part])
    algorithm.stop()
    # One market's return is mostly luck, of a standard deviation near 0.67; the mean of 128 within 0.06.
    assert earned > 0.95 * BEST - 2 * 0.06


@pytest.mark.slow
def test_all_modes_learn_alike():
    """Returns while training, with the same seed: the two compiled modes see the same rows, the others random ones."""
    learned = {}
    for name, options in {
        "stock": {"mode": "episodes"},
        "torch": {"mode": "rollout", "policy_backend": "torch"},
        "jax": {"mode": "rollout"},
        "fused": {"mode": "fused"},
    }.items():
        algorithm = built(config(markets=32), **options)
        returns = []
        for _ in range(40):
            sampled = algorithm.train()["env_runners"]
            returns += [sampled["episode_return_mean"]] if sampled.get("num_episodes") else []
        algorithm.stop()
        learned[name] = np.asarray(returns, np.float64)
    for name, returns in learned.items():
        # The mean over 10 x 32 episodes of standard deviation 0.67.
        assert returns[-10:].mean() > 0.95 * BEST - 2 * 0.04, name
        assert abs(returns[-10:].mean() - learned["stock"][-10:].mean()) < 4 * 0.04, name
    np.testing.assert_allclose(learned["jax"], learned["fused"], atol=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_roles_of_different_spaces_train_together_while_agents_die(mode):
    algorithm = built(config("TwoRoles-v0", markets=16, length=20, num_epochs=2), mode=mode)
    before = weights(algorithm)
    for _ in range(2):
        result = algorithm.train()
    sampled, learned = result["env_runners"], result["learners"]
    agents = sampled["num_agent_steps_sampled_lifetime"]
    assert set(agents) == {"taker_000", "taker_001", "taker_002", "maker_000", "maker_001"}
    full = 2 * 20 * 16
    if mode == "episodes":  # RLlib samples until it has enough, and a step that shows a reset does not count
        assert full <= sampled["num_env_steps_sampled_lifetime"] < full + 2 * 16
    else:
        assert sampled["num_env_steps_sampled_lifetime"] == full
        assert all(0.3 * full < count < full for count in agents.values())  # dead for a part of the time
        rows = sampled["num_module_steps_sampled"]
        for module in ("taker", "maker"):
            assert learned[module]["num_module_steps_trained"] == 2 * rows[module], "every row twice, no other"
    after = weights(algorithm)
    assert all(not np.array_equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert all(np.isfinite(value).all() for value in after.values())
    assert np.isfinite(algorithm.evaluate()["env_runners"]["episode_return_mean"])
    algorithm.stop()


def test_groups_of_roles_share_a_module():
    register_market("Alike-v0", lambda: two_roles(alike=True))
    shared = config("Alike-v0", length=8, num_epochs=1)
    shared.multi_agent(policies={"all"}, policy_mapping_fn=policy_mapping({"all": ("taker", "maker")}))
    algorithm = built(shared)
    algorithm.train()
    assert {name.partition("/")[0] for name in weights(algorithm)} == {"all"}
    algorithm.stop()
    wrong = config("TwoRoles-v0")
    wrong.multi_agent(policies={"all"}, policy_mapping_fn=policy_mapping({"all": ("taker", "maker")}))
    with pytest.raises(ValueError, match="roles that share a module need equal spaces"):
        use_batched(wrong)


def league(_, episode, **__):
    return f"p{int(episode.id_[-1], 16) % 2}"


def test_a_league_changes_seats_from_episode_to_episode():
    one = config(markets=12, length=70, num_epochs=1)
    one.multi_agent(policies={"p0", "p1"}, policy_mapping_fn=league)
    algorithm = built(one)
    assert algorithm.env_runner.policy_backend == "torch"
    result = algorithm.train()
    rows = result["env_runners"]["num_module_steps_sampled"]
    assert rows["p0"] + rows["p1"] == 12 * 70 * 8
    assert min(rows["p0"], rows["p1"]) > 0
    assert {m: result["learners"][m]["num_module_steps_trained"] for m in rows} == dict(rows)
    algorithm.stop()
    other = config()
    other.multi_agent(policies={"p0", "p1"}, policy_mapping_fn=league)
    with pytest.raises(ValueError, match="from episode to episode"):
        use_batched(other, mode="fused")


def test_a_recurrent_module_falls_back_to_episodes(caplog):
    one = config(markets=4, length=8, num_epochs=1)
    one.rl_module(model_config=DefaultModelConfig(use_lstm=True, lstm_cell_size=8, max_seq_len=4))
    algorithm = built(one, mode="rollout")
    assert algorithm.env_runner.options.mode == "episodes"
    assert len([r for r in caplog.records if "going on with mode 'episodes'" in r.message]) == 1
    assert np.isfinite(algorithm.train()["learners"]["trader"]["total_loss"])
    algorithm.stop()


def per_agent_filter(*_):
    return MeanStdFilter(multi_agent=True)


class Listener(RLlibCallback):
    """Counts what it hears."""

    def on_episode_step(self, *, metrics_logger, env, env_index, **kwargs):
        metrics_logger.log_value("steps_heard", 1, reduce="sum")
        assert "step" in env.envs[env_index].render()

    def on_episode_end(self, *, episode, metrics_logger, **kwargs):
        metrics_logger.log_value("ends_heard", 1, reduce="sum")
        assert len(episode) == 64


def test_episodes_call_back_and_run_own_connectors():
    one = config(markets=4, length=66, num_epochs=1)
    one.callbacks(Listener)
    one.env_runners(env_to_module_connector=per_agent_filter)
    algorithm = built(one, mode="episodes")
    sampled = algorithm.train()["env_runners"]
    assert sampled["ends_heard"] == 4
    assert sampled["num_episodes"] == 4
    assert sampled["steps_heard"] >= 4 * 65
    filters = [piece for piece in algorithm.env_runner._env_to_module.connectors if isinstance(piece, MeanStdFilter)]
    assert filters[0]._filters["trader_000"].running_stats.n >= 4 * 66
    algorithm.stop()


class OtherLearner(PPOTorchLearner):
    """A user's own."""


class Quiet(RLlibCallback):
    """Hears nothing of episodes."""

    def on_train_result(self, **kwargs):
        pass


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: c.callbacks(Listener), {}, "cannot call on_episode_step.*mode='episodes'"),
        (lambda c: c.callbacks(on_episode_end=lambda **_: None), {}, "cannot call on_episode_end"),
        (
            lambda c: c.env_runners(env_to_module_connector=per_agent_filter),
            {},
            "does not run your env_to_module_connector.*observation_clip",
        ),
        (lambda c: c.learners(learner_connector=lambda *_: None), {}, "does not run your learner_connector"),
        (lambda c: c.learners(learner_class=OtherLearner), {}, "subclass of bridges.rllib.RolloutPPOTorchLearner"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), {}, "truncate_episodes"),
        (lambda c: c.multi_agent(count_steps_by="agent_steps"), {}, "count_steps_by"),
        (lambda c: c.env_runners(explore=False), {}, "leave explore=True"),
        (lambda c: c.training(use_gae=False), {}, "use_gae"),
        (lambda c: c, {"mode": "rollouts"}, "did you mean 'rollout'"),
        (lambda c: c, {"policy_backend": "numpy"}, "known: auto, jax, torch"),
        (lambda c: c, {"mode": "fused", "policy_backend": "torch"}, "mode='rollout'"),
        (lambda c: c, {"mode": "episodes", "observation_clip": 5.0}, "MeanStdFilter"),
        (lambda c: c.environment("jaxarena/PlantedSingal-v0"), {}, "did you mean 'PlantedSignal-v0'"),
        (lambda c: c.environment("CartPole-v1"), {}, "name a market"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(change, options, message):
    one = config()
    change(one)
    with pytest.raises(ValueError, match=message):
        use_batched(one, **options)


def test_another_algorithm_samples_episodes_only():
    other = APPOConfig().environment("jaxarena/PlantedSignal-v0")
    with pytest.raises(ValueError, match="is for PPO, got APPOConfig"):
        use_batched(other)
    assert use_batched(other, mode="episodes").env_runner_cls is not None


def test_callbacks_without_episodes_and_use_twice_are_welcome():
    one = config()
    one.callbacks(Quiet)
    twice = use_batched(use_batched(one, mode="rollout"), mode="fused")
    assert twice.env_config["use_batched"]["mode"] == "fused"
    assert issubclass(twice.learner_class, FastPPOTorchLearner)


def test_a_replaced_env_config_is_noticed():
    one = use_batched(config())
    one.env_config = {}
    with pytest.raises(ValueError, match="call use_batched last"):
        one.build_algo()


def test_a_runner_of_its_own_evaluates_with_the_learners_weights_and_moments():
    one = config(num_epochs=1)
    one.evaluation(evaluation_interval=1, evaluation_duration=8, evaluation_config={"explore": False})
    algorithm = built(one, observation_clip=10.0)
    result = algorithm.train()
    judge = algorithm.eval_env_runner_group.local_env_runner
    assert judge.makes_episodes
    assert result["evaluation"]["env_runners"]["num_episodes"] >= 8
    seen = judge._env_to_module[ObservationsToModule][0].moments.get()["trader"]
    assert float(seen.count) == 16 * 32 * 8
    own = judge.get_state(components="rl_module")["rl_module"]["trader"]
    assert all(np.array_equal(weights(algorithm)[f"trader/{name}"], value) for name, value in own.items())
    algorithm.stop()


@pytest.mark.parametrize("mode", MODES)
def test_restored_weights_and_counters_go_on_in_new_episodes(mode, tmp_path):
    options = {"mode": mode} | ({} if mode == "episodes" else {"observation_clip": 10.0})
    first = built(config(num_epochs=1), **options)
    for _ in range(3):
        result = first.train()
    first.save_to_path(str(tmp_path))
    second = built(config(num_epochs=1), **options)
    assert not equal(weights(first), weights(second))
    second.restore_from_path(str(tmp_path))
    assert equal(weights(first), weights(second))
    after = second.train()
    assert after["training_iteration"] == result["training_iteration"] + 1
    assert after["env_runners"]["num_env_steps_sampled_lifetime"] == 4 * 16 * 32
    if mode != "episodes":
        old, new = (one.env_runner._env_to_module[ObservationsToModule][0].moments.get() for one in (first, second))
        assert float(new["trader"].count) == float(old["trader"].count) * 4 / 3
        keys = [jax.random.key_data(one.env_runner._key) for one in (first, second)]
        assert not np.array_equal(*keys), "the restored run would play the first episodes again"
    first.stop()
    second.stop()


def test_the_same_seed_gives_the_same_weights():
    runs = []
    for _ in range(2):
        algorithm = built(config(num_epochs=1))
        algorithm.train()
        runs.append(weights(algorithm))
        algorithm.stop()
    assert equal(*runs)


def test_the_page_runs(monkeypatch):
    """As a reader would paste it; Ray is running already."""
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    example, _ = python_blocks("rllib.md")  # a search like the second one is in the tests of clusters
    space = {}
    exec(example, space)
    assert space["earned"] > 0.8 * space["best"]  # ten episodes, mostly luck


def test_options_travel_as_plain_data():
    stored = use_batched(config(), policy_backend="torch").env_config["use_batched"]
    assert stored == {"mode": "rollout", "policy_backend": "torch", "observation_clip": None}
    assert dataclasses.asdict(built(config()).env_runner.options)["mode"] == "rollout"
