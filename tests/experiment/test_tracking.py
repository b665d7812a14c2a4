import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from jaxarena import train
from jaxarena.experiment.config import dump_config, load_config
from jaxarena.experiment.tracking import (
    Backend,
    JsonlTracker,
    Mirror,
    ProgressTracker,
    Run,
    Sink,
    Tracker,
    Trackers,
    follow,
    read_jsonl,
)
from jaxarena.experiment.tracking.jsonl import JsonlTail
from jaxarena.experiment.tracking.mirror import Follower, files_of


def test_each_record_is_on_disk_when_log_returns(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlTracker(path) as tracker:
        tracker.log(10, {"loss": np.float32(0.5), "per_seed": np.array([1.0, np.nan])})
        assert read_jsonl(path) == [{"step": 10, "loss": 0.5, "per_seed": [1.0, None]}]
        tracker.log(20, {"loss": float("inf")})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_survives_kill(tmp_path):
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from jaxarena.experiment.tracking import JsonlTracker
        tracker = JsonlTracker(Path(sys.argv[1]))
        for step in range(5):
            tracker.log(step, {"x": step})
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [record["step"] for record in read_jsonl(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"", b'{"step":5,"x"', b'{"step":5,"x":5}'])
def test_resume_drops_the_torn_line_and_what_comes_after_the_checkpoint(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    with JsonlTracker(path) as tracker:
        for step in range(5):
            tracker.log(step, {"x": step})
    with path.open("ab") as file:
        file.write(torn)
    with JsonlTracker(path, resume_step=2) as tracker:
        for step in range(3, 6):
            tracker.log(step, {"x": 10 * step})
    assert read_jsonl(path) == [{"step": s, "x": x} for s, x in enumerate([0, 1, 2, 30, 40, 50])]


def test_a_new_run_starts_the_file_anew_and_a_missing_file_can_be_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (3, 4):
        with JsonlTracker(path) as tracker:
            tracker.log(step, {})
    assert [record["step"] for record in read_jsonl(path)] == [4]
    path.unlink()
    JsonlTracker(path, resume_step=9).close()
    assert read_jsonl(path) == []


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\ngarbage\n{"step":2}\n')
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_jsonl(path)


def test_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path, write = tmp_path / "metrics.jsonl", os.write
    tracker = JsonlTracker(path)
    tracker.log(1, {"x": 1})
    calls = iter([lambda fd, line: write(fd, line[:4])])

    def failing(fd, line):
        for call in calls:
            return call(fd, line)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match="No space"):
        tracker.log(2, {"x": 2})
    monkeypatch.setattr(os, "write", write)
    tracker.log(3, {"x": 3})
    tracker.close()
    assert [record["step"] for record in read_jsonl(path)] == [1, 3]


def test_plain_progress_counts_speed_from_the_resumed_step():
    stream, clock = io.StringIO(), iter([0.0, 10.0, 20.0])
    tracker = ProgressTracker(10_000, 4_000, ("return", "absent"), stream, lambda: next(clock))
    tracker.log(5_000, {"return": np.array([1.0, 2.0]), "hidden": 3.0})
    tracker.log(8_000, {"return": 0.0})
    tracker.close()
    assert stream.getvalue().splitlines() == [
        "step 5,000 of 10,000 (50%), 100 steps/s, 50 s left, return 1.5",
        "step 8,000 of 10,000 (80%), 200 steps/s, 10 s left, return 0",
    ]


def test_terminal_progress_draws_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with ProgressTracker(1_000, 0, ("return",), stream) as tracker:
        tracker.log(500, {"return": 2.0})
    assert "50%" in stream.getvalue()
    assert "steps/s" in stream.getvalue()


def test_trackers_reach_all_and_close_all(tmp_path):
    class Broken(Tracker):
        def __init__(self):
            self.seen = []

        def log(self, step, values):
            self.seen.append(step)

        def close(self):
            raise RuntimeError("backend gone")

    first, last = Broken(), JsonlTracker(tmp_path / "metrics.jsonl")
    trackers = Trackers(first, last)
    trackers.log(1, {})
    with pytest.raises(RuntimeError, match="backend gone"):
        trackers.close()
    assert first.seen == [1]
    assert last._descriptor == -1


def test_the_tail_gives_each_whole_line_once_and_begins_anew_when_the_file_was_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = JsonlTail(path)
    assert tail.read() == []
    with JsonlTracker(path) as tracker:
        tracker.log(1, {})
        assert tail.read() == [{"step": 1}]
        tracker.log(2, {})
        with path.open("ab") as file:
            file.write(b'{"step":')
        assert tail.read() == [{"step": 2}]
        with path.open("ab") as file:
            file.write(b"3}\n")
        assert tail.read() == [{"step": 3}]
    JsonlTracker(path, resume_step=1).close()
    assert tail.read() == [{"step": 1}]


class Memo(Sink):
    """Keeps what it is sent; fails while `broken` holds an error."""

    def __init__(self):
        self.steps, self.finished, self.files, self.numbers = [], None, [], {}
        self.broken, self.opened, self.delay_s = None, 0, 0.0

    def send(self, records):
        time.sleep(self.delay_s)
        if self.broken is not None:
            raise self.broken
        self.steps += [record["step"] for record in records]

    def finish(self, numbers, files, *, finished):
        self.numbers, self.files, self.finished = dict(numbers), files, finished


class _Memory(Mirror):
    """A backend whose sink the test holds in its hands."""

    package = "json"
    sink = Memo()

    @contextlib.contextmanager
    def open(self, run, memory):
        self.sink.opened += 1
        yield self.sink


@pytest.fixture
def sink():
    _Memory.sink = Memo()
    return _Memory.sink


def wait_until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def followed(folder, backend=None, **options):
    stream = io.StringIO()
    return Follower(backend or _Memory(), Run(folder.path, 0, 1, {}), stream, **options), stream


def test_records_arrive_while_the_run_goes_on_and_results_at_its_end(tracked, write_records, finish_run, sink):
    _, folder = tracked([])
    follower, stream = followed(folder)
    write_records(folder, [8, 16])
    wait_until(lambda: sink.steps == [8, 16])
    assert sink.finished is None
    finish_run(folder)
    follower.close()
    assert sink.finished is True
    assert sink.numbers == {"eval/roles/bold/sharpe": 0.5}
    names = [file.relative_to(folder.path).as_posix() for file in sink.files]
    assert names == [
        "checkpoints/step_000000000128.npz",
        "config.yaml",
        "manifest.json",
        "meta.json",
        "metrics.jsonl",
        "plots/equity.png",
        "report.html",
        "summary.json",
    ]
    assert stream.getvalue() == ""


def test_a_stopped_run_is_continued_without_a_step_twice(tracked, write_records, sink):
    _, folder = tracked([])
    write_records(folder, [8, 16, 24])
    followed(folder)[0].close()
    assert sink.finished is False
    write_records(folder, [24, 32], after=16)  # the checkpoint was that of step 16
    followed(folder)[0].close()
    assert sink.steps == [8, 16, 24, 32]
    assert sink.opened == 2


def test_a_backend_that_fails_warns_once_and_gets_what_it_missed(tracked, write_records, sink):
    _, folder = tracked([])
    sink.broken = ConnectionError("no way to https://me:hunter2@host/x\nat all")
    follower, stream = followed(folder, retry_s=0.05)
    write_records(folder, [8, 16])
    wait_until(lambda: sink.opened > 2)
    sink.broken = None
    wait_until(lambda: sink.steps == [8, 16])
    sink.broken = OSError(28, "No space left on device")
    write_records(folder, [24], after=16)
    follower.close()
    (line,) = stream.getvalue().splitlines()
    assert "failed (ConnectionError: no way to https://***@host/x at all). The run goes on" in line
    sink.broken = None
    followed(folder)[0].close()
    assert sink.steps == [8, 16, 24]


def test_a_slow_backend_costs_a_run_no_more_than_its_limit_at_the_end(tracked, write_records, sink):
    _, folder = tracked([])
    sink.delay_s = 3.0
    follower, stream = followed(folder, _Memory(close_s=0.3))
    wait_until(follower._thread.is_alive)
    begun = time.monotonic()
    write_records(folder, range(1, 200))
    assert time.monotonic() - begun < 1.0
    begun = time.monotonic()
    follower.close()
    assert 0.3 <= time.monotonic() - begun < 1.0
    assert "has not taken everything 0.3 s after the end (`close_s`)" in stream.getvalue()
    assert len(read_jsonl(folder.metrics)) == 199
    follower._thread.join()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_block_that_raises_still_ends_every_backend(tracked, write_records, sink):
    config, folder = tracked([])
    config = dataclasses.replace(config, tracking=(_Memory(),))
    with contextlib.suppress(KeyboardInterrupt), follow(config, folder):
        write_records(folder, [8])
        raise KeyboardInterrupt
    assert sink.steps == [8]
    assert sink.finished is False
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tracking-")]


def test_of_the_checkpoints_only_the_last_is_kept_elsewhere(tmp_path):
    for name in ("checkpoints/rllib_01/a", "checkpoints/rllib_02/b/c", "checkpoints/.part/d", "tracking/e", ".f.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_of(tmp_path) == [tmp_path / "checkpoints/rllib_02/b/c"]


def test_every_backend_is_written_out_and_read_back(config_file, tmp_path):
    mlflow = {"kind": "mlflow", "uri": "http://127.0.0.1:5000", "experiment": "mine", "close_s": 5}
    config = load_config(config_file, [f"tracking={json.dumps(['jsonl', 'tensorboard', mlflow, 'wandb'])}"])
    assert [backend.kind() for backend in config.tracking] == ["jsonl", "tensorboard", "mlflow", "wandb"]
    assert config.tracking[2].uri == "http://127.0.0.1:5000"
    assert config.tracking[3].mode == "offline"
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("jsnl", r"tracking\[0\]: unknown tracker 'jsnl'; did you mean 'jsonl'\?"),
        ({"kind": "mlflow", "url": "x"}, r"tracking\[0\]: unknown key 'url'; did you mean 'uri'\?"),
        ({"kind": "wandb", "mode": "of"}, r"tracking\[0\]\.mode: got 'of'; .*known: offline, online"),
        ({"kind": "tensorboard", "close_s": -1}, r"tracking\[0\]\.close_s: got -1"),
        ({"kind": "wandb", "api_key": "secret"}, r"tracking\[0\]: unknown key 'api_key'"),
    ],
)
def test_wrong_settings_are_named_before_anything_begins(entry, message, config_file):
    with pytest.raises(ValueError, match=message):
        load_config(config_file, [f"tracking={json.dumps([entry])}"])


def test_a_backend_named_twice_is_refused(config_file):
    with pytest.raises(ValueError, match=r"tracking\[1\]: 'wandb' is named twice"):
        load_config(config_file, ["tracking=[wandb, {kind: wandb, mode: online}]"])


@pytest.mark.parametrize(
    "uri",
    ["https://me:hunter2@host/x", "https://hunter2@host", "http://host/?token=hunter2", "postgresql://m:hunter2@h/d"],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(uri, config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with config_file.open("a") as file:
        file.write(f'tracking: [{{kind: mlflow, uri: "{uri}"}}]\n')
    assert train.main([str(config_file)]) == 2
    error = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in error
    assert "hunter2" not in error
    assert list(tmp_path.iterdir()) == [config_file]


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_missing_package_is_told_before_anything_begins(name, package, config_file, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    assert train.main([str(config_file), f"tracking=[{name}]", f"run_dir={tmp_path / 'run'}"]) == 2
    assert f"tracking[0]: {name!r} needs the package {package!r}" in (error := capsys.readouterr().err)
    assert "pip install 'jaxarena[tracking]'" in error
    assert not (tmp_path / "run").exists()


def test_a_backend_of_ones_own_is_named_by_its_path(config_file):
    config = load_config(config_file, ["tracking=[{kind: 'jaxarena.experiment.tracking.wandb:Wandb'}]"])
    assert isinstance(config.tracking[0], Backend)
