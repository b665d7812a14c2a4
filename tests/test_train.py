import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxarena import evaluate, train
from jaxarena.experiment import training
from jaxarena.experiment.checkpoint import Checkpoints
from jaxarena.experiment.config import load_config
from jaxarena.experiment.evaluate import evaluate as judge
from jaxarena.experiment.markets import build_market
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import read_jsonl

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
METRICS = ("annual_return", "sharpe", "sortino", "max_drawdown", "volatility", "turnover")
TINY = """\
name: tiny
market:
  process: {kind: planted_signal, n_assets: 2}
  indicators: []
  roles:
    - name: careful
      count: 2
      action: {kind: target_exposure, low: 0.0, n_levels: 2}
      observations: [signal, portfolio]
    - {name: crowd, strategy: random}
  episode_length: 8
ppo: {rollout_length: 4, epochs: 1, minibatches: 1, hidden: [4]}
train: {agent_steps: 192, markets: 4, updates_per_chunk: 2, checkpoint_every_s: 1.0e-3}
evaluation: {markets: 2, draws: 20, baselines: [hold, buy_and_hold, {kind: random, trade_probability: 0.3}, random]}
"""


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Equal programs of several runs are compiled once in this module."""
    cache = tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tiny_file, tmp_path_factory):
    """One whole run of the command line."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    assert train.main([str(tiny_file), f"run_dir={folder.path}"]) == 0
    return folder


def test_a_run_leaves_what_is_promised(finished):
    for name in ("config.yaml", "meta.json", "metrics.jsonl", "summary.json", "checkpoints", "plots", "report.html"):
        assert (finished.path / name).exists()
    records = read_jsonl(finished.metrics)
    assert [record["step"] for record in records] == [64, 128, 192]
    assert all(np.isfinite(record["return/careful"]) for record in records)
    names = {path.stem for path in finished.plots.glob("*.svg")}
    assert {"equity", "drawdown", "flow", "learning", "weights_careful"} <= names


def test_summary_has_its_fixed_names(finished):
    summary = json.loads(finished.summary.read_text())
    assert summary["train"].keys() == {"agent_steps", "agent_steps_per_s", "wall_s", "compile_s"}
    assert summary["train"]["agent_steps"] == 192  # two agents that never die, four markets; the scripted one apart
    assert summary["eval"]["roles"].keys() == {"careful"}
    assert summary["eval"]["scripted"].keys() == {"crowd"}
    assert list(summary["eval"]["baselines"]) == ["hold", "buy_and_hold", "random", "random_2"]
    for row in (*summary["eval"]["roles"].values(), *summary["eval"]["baselines"].values()):
        for name in METRICS:
            value, interval = row[name]["value"], row[name]["interval"]
            assert value is None or interval is None or interval[0] <= interval[1]
            assert value is not None or row[name]["reason"]
    assert summary["eval"]["baselines"]["hold"]["annual_return"]["value"] == 0.0
    assert summary["eval"]["baselines"]["buy_and_hold"]["turnover"]["value"] > 0


def test_resuming_a_finished_run_says_so(finished, capsys):
    before = finished.summary.read_bytes()
    assert train.main(["--resume", str(finished.path)]) == 0
    assert "finished already" in capsys.readouterr().err
    assert finished.summary.read_bytes() == before


def test_evaluating_again_gives_the_same_numbers(finished):
    before = json.loads(finished.summary.read_text())
    assert evaluate.main([str(finished.path)]) == 0
    after = json.loads(finished.summary.read_text())
    assert after == before
    assert evaluate.main([str(finished.path), "--split", "validation"]) == 0
    assert json.loads(finished.summary.read_text())["eval_validation"]["roles"] == before["eval"]["roles"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], r"error: none\.yaml: cannot read"),
        (["smoke", "ppo.lrr=1"], r"ppo: unknown key 'lrr'; did you mean 'lr'\?"),
        (["smoke", "ppo.lr=fast"], r"ppo\.lr: expected a number"),
        (["preset=Gbn-v0"], r"unknown preset 'Gbn-v0'; did you mean 'Gbm-v0'"),
        (["smoke", "planted_signal"], r"got 2 configuration files"),
        (["smoke", "data.source=none.csv"], r"none\.csv: no such file"),
        (["smoke", "market.episode_length=5000"], r"market\.episode_length: 5000 steps .* shorten the episode"),
        (["smoke", "data=null"], r"historical_replay has no bars; add a 'data' section"),
        (["planted_signal", "data.source=us_daily"], r"makes its own prices; remove 'data'"),
        (["smoke", "evaluation.baseline_role=carefull"], r"unknown learned role 'carefull'; did you mean 'careful'"),
        (["smoke", "policies={all: [careful, bold]}"], r"policies\.all: .* need equal ones"),
        (["--resume", "nowhere"], r"nowhere: no run there, the folder does not exist"),
        (["--resume", "nowhere", "ppo.lr=1"], r"--resume goes on with the run's own config\.yaml; remove ppo\.lr=1"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_unknown_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--resum", "x", "--frob"])
    assert stop.value.code == 2
    assert "--frob" in capsys.readouterr().err


@pytest.mark.parametrize("command", [train, evaluate])
def test_help_teaches_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.count(f"  jaxarena {command.__name__.rpartition('.')[2]} ") >= 2
    assert "exit codes:" in text


def test_a_used_folder_is_left_alone(finished, tiny_file, capsys):
    before = finished.metrics.read_bytes()
    assert train.main([str(tiny_file), f"run_dir={finished.path}"]) == 2
    assert "resume it with --resume" in capsys.readouterr().err
    assert finished.metrics.read_bytes() == before


def test_evaluate_names_what_is_wrong(finished, tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 2
    assert evaluate.main([str(finished.path), "--split", "tset"]) == 2
    error = capsys.readouterr().err
    assert "no run there" in error
    assert "did you mean 'test'?" in error


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_build(path):
    config = load_config(path)
    assert config.name == path.stem
    env, _ = build_market(config, "train")
    assert set(env.learned_roles) == {role for roles in config.groups.values() for role in roles}
    build_market(config, "test")
    assert config.evaluation.baselines


def test_the_default_market_is_the_promised_one():
    config = load_config(train.find_config("default"))
    scripted = {role.strategy.kind() for role in config.market.roles if not role.learned}
    assert set(config.groups) == {"conservative", "balanced", "aggressive"}
    assert {"momentum", "mean_reversion", "random"} <= scripted
    impact = config.market.mechanism.impact
    assert impact.permanent > 0
    assert impact.transient > 0


def test_a_folder_of_the_name_does_not_hide_the_configuration(tmp_path, monkeypatch):
    """Such as a run folder that was called after it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").mkdir()
    assert train.find_config("smoke").is_file()


def state_of(folder: RunFolder) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(folder.checkpoints)
    with np.load(checkpoints.path(checkpoints.steps()[-1])) as archive:
        return {name: archive[name] for name in archive.files if name != "__manifest__"}


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    assert one.metrics.read_bytes() == other.metrics.read_bytes()
    arrays, others = state_of(one), state_of(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype
        assert array.tobytes() == others[name].tobytes(), name
    summary, again = (json.loads(folder.summary.read_text()) for folder in (one, other))
    assert summary["eval"] == again["eval"]
    assert summary["train"]["agent_steps"] == again["train"]["agent_steps"]


def test_stopped_by_ctrl_c_and_resumed(finished, tiny_file, tmp_path, capsys, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    log = training.ProgressTracker.log

    def stop(self, step, values):
        log(self, step, values)
        if step == 64:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training.ProgressTracker, "log", stop)
    assert train.main([str(tiny_file), f"run_dir={folder.path}"]) == 130
    assert f"--resume {folder.path}" in capsys.readouterr().err
    assert Checkpoints(folder.checkpoints).steps() == [0, 64]
    assert not folder.summary.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train.main(["--resume", str(folder.path)]) == 0
    assert_same_run(folder, finished)


def test_a_full_disk_ends_the_run_and_leaves_the_last_state(finished, tiny_file, tmp_path, capsys, monkeypatch):
    folder, save = RunFolder(tmp_path / "run"), np.savez

    def full(file, **arrays):
        if "000128" in file.name:
            file.write(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert train.main([str(tiny_file), f"run_dir={folder.path}"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert f"go on with: python -m jaxarena.train --resume {folder.path}" in error
    assert "Traceback" not in error
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "step_000000000000.npz",
        "step_000000000064.npz",
    ]
    monkeypatch.setattr(np, "savez", save)
    assert train.main(["--resume", str(folder.path)]) == 0
    assert_same_run(folder, finished)


def test_a_disk_too_full_for_records(tiny_file, tmp_path, capsys, monkeypatch):
    folder, write = RunFolder(tmp_path / "run"), os.write

    def full(descriptor, line):
        if b'"step":128' in line:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, line)

    monkeypatch.setattr(os, "write", full)
    assert train.main([str(tiny_file), f"run_dir={folder.path}"]) == 1
    assert "go on with" in capsys.readouterr().err
    assert [record["step"] for record in read_jsonl(folder.metrics)] == [64]
    assert Checkpoints(folder.checkpoints).steps() == [0, 64]


def test_lost_checkpoints_are_told(finished, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in ("config.yaml", "meta.json", "metrics.jsonl"):
        (folder.path / name).write_bytes((finished.path / name).read_bytes())
    assert train.main(["--resume", str(folder.path)]) == 1
    assert "records 192 steps, but" in capsys.readouterr().err
    assert read_jsonl(folder.metrics) == read_jsonl(finished.metrics)


def test_a_run_cut_off_before_its_first_state_starts_again(finished, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in ("config.yaml", "meta.json"):
        (folder.path / name).write_bytes((finished.path / name).read_bytes())
    assert train.main(["--resume", str(folder.path)]) == 0
    assert_same_run(folder, finished)


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [1, 5])
def test_killed_and_resumed_is_bit_for_bit_a_run_that_never_stopped(chunks, tiny_file, tmp_path):
    def command(*arguments):
        return [sys.executable, "-m", "jaxarena.train", *map(str, arguments)]

    longer = (tiny_file, "train.agent_steps=64_000", "train.updates_per_chunk=4")
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    subprocess.run(command(*longer, f"run_dir={whole.path}"), check=True, capture_output=True)
    run = subprocess.Popen(command(*longer, f"run_dir={cut.path}"), stderr=subprocess.DEVNULL)
    while run.poll() is None and max(Checkpoints(cut.checkpoints).steps(), default=0) < 128 * chunks:
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not cut.summary.exists()
    subprocess.run(command("--resume", cut.path), check=True, capture_output=True)
    assert_same_run(cut, whole)


def test_more_seeds_than_cores_can_be_started():
    """In a process of its own: weights drawn by batched QR decompositions once blocked each other for ever."""
    program = (
        "from jaxarena.experiment.config import load_config; from jaxarena.experiment.training import Trainer; "
        "from jaxarena.train import find_config; Trainer(load_config(find_config('smoke'), ['seeds=4'])).init()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.slow
def test_several_seeds_train_together(tiny_file, tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert train.main([str(tiny_file), f"run_dir={folder.path}", "seeds=2", "seed=5"]) == 0
    records = read_jsonl(folder.metrics)
    assert all(len(record["return/careful"]) == 2 for record in records)
    assert records[-1]["return/careful"][0] != records[-1]["return/careful"][1]
    summary = json.loads(folder.summary.read_text())
    assert summary["train"]["agent_steps"] == 2 * 192
    assert summary["eval"]["markets"] == 4


@pytest.mark.slow
def test_training_beats_its_untrained_self_on_the_planted_signal():
    """The closed form earns 0.32 of the initial equity per episode of 64 steps; the untrained policy about nothing."""
    config = load_config(train.find_config("planted_signal"), ["train.agent_steps=200_000", "evaluation.draws=200"])
    trainer = training.Trainer(config)
    state = trainer.init()
    before = judge(config, trainer.ppo, training.policies_of(state)).roles["trader"]
    chunk = trainer.compile_chunk()
    for _ in range(trainer.num_chunks):
        state, _ = chunk(state)
    after = judge(config, trainer.ppo, training.policies_of(state)).roles["trader"]
    gains = [curves.equity[:, -1] / curves.equity[:, 0] - 1.0 for curves in (before, after)]
    error = 0.16 / np.sqrt(252) * np.sqrt(64 / config.evaluation.markets)
    assert gains[1].mean() - gains[0].mean() > 5 * error
    assert gains[1].mean() == pytest.approx(64 * 0.005, abs=4 * error)
