"""Runs can be checked: untouched ones are reproduced to the last bit, touched ones are told what was touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
import pytest

from jaxarena import evaluate, export, load_policy, train, verify
from jaxarena.experiment import manifest, reproduce
from jaxarena.experiment.files import read_json, write_json
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import read_jsonl
from jaxarena.experiment.training import Trainer, policies_of, restore_trained
from tests.test_train import TINY, assert_same_run

SECRETS = {
    "WANDB_API_KEY": "canary-0001",
    "MLFLOW_TRACKING_PASSWORD": "canary-0002",
    "AWS_SECRET_ACCESS_KEY": "canary-0003",
    "HF_TOKEN": "canary-0004",
}
BARS = "date,open,high,low,close,volume\n" + "".join(
    f"2020-01-{day:02d},{day},{day + 1},{day},{day + 1},1000\n" for day in range(1, 29)
)
OWN_DATA = """\
name: own
data:
  source: {bars}
  symbols: null
  train: [2020-01-01, 2020-01-12]
  validation: [2020-01-13, 2020-01-18]
  test: [2020-01-19, 2020-01-28]
market:
  process: {{kind: historical_replay, liquidity_window: 2}}
  indicators: []
  roles: [{{name: one, action: buy_hold_sell, observations: [portfolio]}}]
  episode_length: 3
ppo: {{rollout_length: 2, epochs: 1, minibatches: 1, hidden: [4]}}
train: {{agent_steps: 8, markets: 2}}
evaluation: {{markets: 2, draws: 20, baselines: [hold]}}
"""


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Equal programs of several runs are compiled once in this module."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, trained with secrets in the environment, and evaluated on a second split."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    config = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config.write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        assert train.main([str(config), f"run_dir={folder.path}"]) == 0
        assert evaluate.main([str(folder.path), "--split", "validation"]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run to spoil."""
    return RunFolder(shutil.copytree(finished.path, tmp_path / "run"))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.path.rglob("*")) if path.is_file()}


def test_a_run_is_reproduced_and_left_alone(finished, capsys):
    before = contents(finished)
    assert verify.main([str(finished.path)]) == 0
    out = capsys.readouterr().out
    numbers = sum(1 for _ in reproduce._numbers(*[read_json(finished.summary)] * 2)) - 4  # those of `train` apart
    assert out == f"reproduced: {numbers} of {numbers} numbers are equal to the last bit\n"
    assert contents(finished) == before


def test_the_manifest_says_what_decides_the_numbers(finished):
    found = read_json(finished.manifest)
    assert found.keys() == {"inputs", "files", "evaluations"}
    assert found["inputs"]["seeds"] == [0, 12345]
    assert found["inputs"]["packages"] == read_json(finished.meta)["versions"]
    assert found["inputs"]["code"] == manifest.code_hash()
    assert found["files"].keys() == {"config.yaml", "checkpoints/step_000000000192.npz", "policy.npz"}
    assert found["evaluations"].keys() == {"eval", "eval_validation"}


def edit(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda run: edit(run.summary, lambda s: s["eval"]["roles"]["careful"]["volatility"].update(value=9.0)),
            [
                "changed: summary.json was changed, in its part 'eval'",
                "differs: eval.roles.careful.volatility.value: recorded 9.0, recomputed 0.",
            ],
        ),
        (
            lambda run: edit(run.summary, lambda s: s["eval_validation"]["baselines"].pop("hold")),
            ["in its part 'eval_validation'", "differs: eval_validation.baselines.hold.", "recorded None", "more"],
        ),
        (
            lambda run: run.config.write_text(run.config.read_text() + "# a remark\n"),
            ["changed: config.yaml was changed", "NOT reproduced"],
        ),
        (lambda run: run.policy.unlink(), ["changed: policy.npz is missing"]),
    ],
    ids=["number", "missing number", "config", "policy"],
)
def test_what_was_touched_is_told(run, spoil, told, capsys):
    spoil(run)
    assert verify.main([str(run.path)]) == 1
    out = capsys.readouterr().out
    for text in told:
        assert text in out
    assert "NOT reproduced" in out.splitlines()[-1]


def test_other_weights_are_noticed(run, capsys):
    """A checkpoint that reads well and holds something else."""
    (path,) = run.checkpoints.glob("*192.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    others = {name: array + np.float32(3.0) for name, array in arrays.items() if "policy/params" in name}
    np.savez(path, **(arrays | others))
    assert verify.main([str(run.path)]) == 1
    out = capsys.readouterr().out
    assert "changed: checkpoints/step_000000000192.npz was changed" in out
    assert "differs: eval.roles.careful." in out


def test_another_machine_or_code_is_told_and_numbers_may_round_differently(run, capsys):
    edit(run.manifest, lambda m: m["inputs"]["machine"].update(cpu="Another"))
    edit(run.manifest, lambda m: m["inputs"].update(code="0" * 64))
    edit(run.summary, lambda s: s["eval"]["roles"]["careful"]["turnover"].update(value=_nudged(s)))
    edit(run.manifest, lambda m: m["evaluations"].update(eval=manifest.numbers_hash(read_json(run.summary)["eval"])))
    assert verify.main([str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "different: cpu: Another then, " in out
    assert "different: the code of jaxarena is not the one that made the run" in out
    assert "equal to one part in a thousand" in out


def _nudged(summary):
    return summary["eval"]["roles"]["careful"]["turnover"]["value"] * (1 + 1e-6)


def test_changed_data_is_told(tmp_path, capsys):
    bars, config, run = tmp_path / "bars.csv", tmp_path / "own.yaml", tmp_path / "run"
    bars.write_text(BARS)
    config.write_text(OWN_DATA.format(bars=bars))
    assert train.main([str(config), f"run_dir={run}"]) == 0
    assert verify.main([str(run)]) == 0
    bars.write_text(BARS.replace("2020-01-25,25,26,25,26,1000", "2020-01-25,25,27,25,27,1000"))
    assert verify.main([str(run)]) == 1
    out = capsys.readouterr().out
    assert "changed: the data file was changed" in out
    assert "changed: the data of the split 'test' are others" in out
    assert "split 'train'" not in out


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: run.config.unlink(), "no run there"),
        (lambda run: run.summary.unlink(), "the run is not finished, it has no evaluation; go on with: python -m"),
        (lambda run: shutil.rmtree(run.checkpoints), "no checkpoint there"),
        (lambda run: run.manifest.unlink(), "no such file"),
        (lambda run: edit(run.manifest, lambda m: m.pop("files")), "has no 'files'; evaluate the run again"),
        (lambda run: edit(run.meta, lambda m: m.update(program="bridges.train_rllib")), "made by bridges.train_rllib"),
    ],
    ids=["config", "summary", "checkpoints", "manifest", "old manifest", "program"],
)
def test_what_cannot_be_checked_is_bad_input(run, spoil, told, capsys):
    spoil(run)
    assert verify.main([str(run.path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_no_secret_is_in_any_file(finished):
    for path, content in contents(finished).items():
        texts = [content]
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                texts += [archive.read(name) for name in archive.namelist()]
        assert not any(secret.encode() in text for secret in SECRETS.values() for text in texts), path


def test_the_policy_of_a_run_acts_as_its_trainer(finished):
    trainer = Trainer(reproduce.read_run(finished.path)[1])
    state, _ = restore_trained(trainer, finished)
    key, policy = jax.random.key(1), load_policy(finished.path)
    expected, _ = trainer.ppo.policy(policies_of(state))(key, state.obs)
    np.testing.assert_array_equal(policy(key, state.obs)["careful"], expected["careful"])
    assert policy.observation_layout("careful") == trainer.env.observation_layout("careful")


def test_export_writes_the_same_policy_and_a_program(run, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    before = run.policy.read_bytes()
    run.policy.unlink()
    assert export.main([str(run.path)]) == 0
    assert run.policy.read_bytes() == before
    assert export.main([str(run.path), "--stablehlo", "--to", str(tmp_path / "policy.bin")]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "policy.bin").read_bytes()))
    policy, obs = load_policy(run.path), np.ones((2, load_policy(run.path).observation_size("careful"), 3), np.float32)
    key = jax.random.key(0)
    found = program.call(jax.random.key_data(key), {"careful": obs})["careful"]
    np.testing.assert_array_equal(found, policy(key, {"careful": obs}, True)["careful"])
    assert export.main([str(run.path), "--stablehlo", "--seed", "1"]) == 2
    assert "seed: got 1" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    """From before the folder is there until after the evaluation: runs are killed and resumed until they finish."""
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def start(folder):
        new = [str(config), "train.agent_steps=64_000", "train.updates_per_chunk=4", f"run_dir={folder.path}"]
        arguments = ["--resume", str(folder.path)] if folder.path.exists() else new
        command = [sys.executable, "-m", "jaxarena.train", *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def finish(folder):
        process = start(folder)
        error = process.communicate()[1]
        assert process.returncode == 0, error

    whole = RunFolder(tmp_path / "whole")
    finish(whole)  # compiles
    shutil.rmtree(whole.path)
    begun = time.monotonic()
    finish(whole)
    seconds = time.monotonic() - begun
    moments = np.random.default_rng(0).uniform(0.0, seconds, 20)
    number, folder = 0, RunFolder(tmp_path / "cut0")
    for moment in moments:
        process = start(folder)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        _assert_readable(folder)
        if process.returncode == 0:
            number, folder = number + 1, RunFolder(tmp_path / f"cut{number + 1}")
    finish(folder)
    for i in range(number + 1):
        cut = RunFolder(tmp_path / f"cut{i}")
        assert_same_run(cut, whole)
        assert read_json(cut.manifest)["evaluations"] == read_json(whole.manifest)["evaluations"]
        assert cut.policy.read_bytes() == whole.policy.read_bytes()


def _assert_readable(folder):
    """Whatever is there can be read; temporary files have names of their own."""
    for path in folder.path.rglob("*"):
        if path.name.startswith("."):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                assert all(archive[name] is not None for name in archive.files)
    read_jsonl(folder.metrics)
