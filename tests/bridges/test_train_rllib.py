"""`python -m bridges.train_rllib`: the same run folder as the native trainer, resuming, what is refused."""

import contextlib
import json
from pathlib import Path

import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import ray

from bridges import train_rllib
from bridges.train_rllib import RllibOptions, main, rllib_config
from jaxarena.experiment.config import load_config
from jaxarena.experiment.tracking import read_jsonl
from jaxarena.train import BAD_INPUT, INTERRUPTED, OK
from tests.bridges.test_rllib import pytestmark as of_rllib

pytestmark = of_rllib
CONFIG = Path(__file__).parents[2] / "configs" / "rllib_ppo.yaml"
SHORT = (
    "train.markets=4",
    "train.updates_per_chunk=1",
    "ppo.rollout_length=16",
    "market.episode_length=20",
    "evaluation.markets=2",
    "evaluation.draws=20",
    "evaluation.baselines=[hold]",
)
PER_UPDATE = 4 * 16 * 8


@pytest.fixture(scope="module", autouse=True)
def cluster():
    yield
    ray.shutdown()


def run(folder, *settings, updates=3):
    return main([str(CONFIG), *SHORT, f"train.agent_steps={updates * PER_UPDATE}", f"run_dir={folder}", *settings])


def test_a_run_leaves_what_the_native_trainer_leaves_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    folder = tmp_path / "run"

    class Stop:
        asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked > 2

    with monkeypatch.context() as patch:
        patch.setattr(train_rllib, "stop_signal", lambda: contextlib.nullcontext(Stop()))
        assert run(folder, updates=4) == INTERRUPTED
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"rllib_{2 * PER_UPDATE:012d}"]
    assert main(["--resume", str(folder)]) == OK

    records = read_jsonl(folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [PER_UPDATE * i for i in (1, 2, 3, 4)]
    wanted = {"return/careful", "return/bold", "entropy/careful", "explained_variance/bold", "lr", "episodes"}
    assert wanted <= records[0].keys()
    # Linearly to zero; RLlib sets the rate after an update, for the next one.
    assert records[0]["lr"] > records[-1]["lr"] >= 0.0
    assert sum(record["episodes"] for record in records) >= 4 * 2  # four markets, at least 64 steps of 20
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train"]["agent_steps"] == 4 * PER_UPDATE
    assert summary["train"]["iterations"] == 4
    assert set(summary["eval"]["roles"]) == {"careful", "bold"}
    assert set(summary["eval"]["baselines"]) == {"hold"}
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["program"] == "bridges.train_rllib"
    assert len(meta["resumed"]) == 1
    report = (folder / "report.html").read_text()
    assert f"python -m bridges.train_rllib --resume {folder}" in report
    assert "jaxarena.evaluate" not in report
    assert (folder / "plots" / "learning.svg").is_file()
    assert main(["--resume", str(folder)]) == OK  # finished: nothing to do


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.normalize_rewards=true"], "no equal of ppo.normalize_rewards; set ppo.normalize_rewards=false"),
        (["ppo.clip_value=true", "ppo.adam_eps=1e-8"], "ppo.clip_value=false ppo.adam_eps=1e-05"),
        (["seeds=2"], "one seed in a run"),
        (["--env-runners", "3"], "does not divide train.markets=4"),
        (["--mode", "episodes"], "ppo.normalize_observations=false"),
        (["ppo.lrr=1"], "unknown key 'lrr'"),
    ],
)
def test_what_rllib_cannot_honour_is_refused_and_leaves_nothing_behind(tmp_path, capsys, settings, message):
    assert run(tmp_path / "run", *settings) == BAD_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_configuration_means_the_same_to_rllib():
    train_rllib.start_ray(RllibOptions())
    config = load_config(CONFIG, ["train.agent_steps=1e6", "ppo.ent_coef=0.01", "policies={all: [careful, bold]}"])
    with pytest.raises(ValueError, match="equal spaces"):
        rllib_config(config, RllibOptions())
    config = load_config(CONFIG, ["train.agent_steps=1e6", "ppo.ent_coef=0.01"])
    theirs = rllib_config(config, RllibOptions(env_runners=2, learners=2))
    assert set(theirs.policies) == {"careful", "bold"}
    assert theirs.policy_mapping_fn("bold_003", None) == "bold"
    assert (theirs.num_env_runners, theirs.num_envs_per_env_runner, theirs.rollout_fragment_length) == (2, 32, 64)
    assert theirs.total_train_batch_size == 64 * 64
    assert theirs.minibatch_size == 64 * 64 * 4 / 4 / 2  # four agents follow a policy, two learners share its rows
    assert theirs.lr == [[0, 1e-3], [31 * 64 * 64, 0.0]]  # 31 updates of 64 x 64 x 8 agent steps
    assert (theirs.gamma, theirs.lambda_, theirs.clip_param, theirs.entropy_coeff) == (0.97, 0.95, 0.2, 0.01)
    assert (theirs.grad_clip, theirs.grad_clip_by, theirs.use_kl_loss) == (0.5, "global_norm", False)
    assert theirs.env_config["use_batched"]["observation_clip"] == 10.0
