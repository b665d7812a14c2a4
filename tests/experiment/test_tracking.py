import io
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxarena.experiment.tracking import (
    JsonlTracker,
    ProgressTracker,
    Tracker,
    Trackers,
    make_trackers,
    read_jsonl,
)


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

        def artifact(self, path):
            self.seen.append(path)

        def close(self):
            raise RuntimeError("backend gone")

    first, last = Broken(), JsonlTracker(tmp_path / "metrics.jsonl")
    trackers = Trackers(first, last)
    trackers.log(1, {})
    trackers.artifact(tmp_path)
    with pytest.raises(RuntimeError, match="backend gone"):
        trackers.close()
    assert first.seen == [1, tmp_path]
    assert last._descriptor == -1


def test_backends_by_name(tmp_path):
    with make_trackers((), tmp_path, None) as trackers:
        trackers.log(1, {"x": 1})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "x": 1}]
    with pytest.raises(ValueError, match="tracking: unknown backend 'jsnl'; did you mean 'jsonl'"):
        make_trackers(("jsnl",), tmp_path, None)
