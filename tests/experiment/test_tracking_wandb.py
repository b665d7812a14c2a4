import json
import os
import struct
import subprocess
import sys
import time

import pytest

from jaxarena.experiment.tracking import follow, read_jsonl
from tests.experiment.tracking_servers import answering, free_port

wandb = pytest.importorskip("wandb", reason="W&B is not installed: pip install 'jaxarena[tracking]'")

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Nobody's token, and no service of an earlier test that knows another server."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb.teardown()


def ids(folder):
    return json.loads((folder.path / "tracking" / "wandb.json").read_text())["ids"]


def offline_runs(folder):
    return sorted((folder.path / "tracking" / "wandb").glob("offline-run-*"))


def records(path):
    """The records of a W&B file: blocks of 32 KiB with pieces of checksum, length, kind (2 and 3: to be continued)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # no room for a further piece in this block
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def logged(run):
    """History, and settings and final numbers by name, of an offline run."""
    wandb.teardown()  # its process writes the end of a file a moment after the run has ended
    history, found = [], {}
    for record in records(next(run.glob("*.wandb"))):
        if record.HasField("run"):
            found["run"] = record.run
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "loss/careful" in row:
            history.append(row)
        found |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    return history, found


def test_everything_arrives_in_a_folder_that_can_be_sent_later(tracked, write_records, finish_run):
    config, folder = tracked([{"kind": "wandb", "project": "markets", "close_s": 60}])
    with follow(config, folder):
        write_records(folder, [8, 16])
        finish_run(folder)
    (run,) = offline_runs(folder)
    assert run.name.endswith(ids(folder)["run"])
    history, found = logged(run)
    assert [(row["_step"], row["loss/careful"]) for row in history] == [(8, 8.0), (16, 16.0)]
    assert found["run"].project == "markets"
    assert found["run"].display_name == "run"
    assert {item.key: json.loads(item.value_json) for item in found["run"].config.update}["ppo.lr"] == 0.001
    assert found["eval/roles/bold/sharpe"] == "0.5"
    for name in ("config.yaml", "report.html", "plots/equity.png", "checkpoints/step_000000000128.npz"):
        assert (run / "files" / name).read_bytes() == (folder.path / name).read_bytes()


def test_a_resumed_run_keeps_its_id_and_sends_no_step_twice(tracked, write_records):
    config, folder = tracked([{"kind": "wandb", "close_s": 60}])
    with follow(config, folder):
        write_records(folder, [8, 16, 24])
    known = ids(folder)
    time.sleep(1.1)  # W&B names folders by the second
    with follow(config, folder):
        write_records(folder, [24, 32], after=16)
    assert ids(folder) == known
    runs = offline_runs(folder)
    assert [run.name.rpartition("-")[2] for run in runs] == [known["run"]] * 2
    assert [[row["_step"] for row in logged(run)[0]] for run in runs] == [[8, 16, 24], [32]]


def test_seeds_are_runs_of_one_group(tracked, write_records):
    config, folder = tracked([{"kind": "wandb", "close_s": 60}], "seeds=2", "seed=5")
    with follow(config, folder):
        write_records(folder, [8], seeds=2)
    found = {
        known["run"].display_name: (known["run"].run_group, rows) for rows, known in map(logged, offline_runs(folder))
    }
    assert {name: group for name, (group, _) in found.items()} == {"run_seed_5": "run", "run_seed_6": "run"}
    assert {name: rows[0]["loss/careful"] for name, (_, rows) in found.items()} == {
        "run_seed_5": 8.0,
        "run_seed_6": 8.5,
    }


@pytest.mark.parametrize("server", ["nobody", "wrong token", "hangs"])
def test_online_without_success_warns_once_and_holds_nothing_up(server, tracked):
    """In a process of its own, which must come to its end as well: W&B has a hook there that waits."""
    _, folder = tracked([{"kind": "wandb", "mode": "online", "close_s": 3}])
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from jaxarena.experiment.run import read_run\n"
        "from jaxarena.experiment.tracking import JsonlTracker, follow\n"
        "folder, config = read_run(Path(sys.argv[1]))\n"
        "begun = time.monotonic()\n"
        "with follow(config, folder), JsonlTracker(folder.metrics) as tracker:\n"
        "    for step in range(1, 50):\n"
        "        tracker.log(step, {'x': step})\n"
        "    assert time.monotonic() - begun < 1.0\n"
        "assert time.monotonic() - begun < 5.0, time.monotonic() - begun\n"
        "print('closed', flush=True)\n"
    )
    with answering(401 if server == "wrong token" else 500, 60.0 if server == "hangs" else 0.0) as uri:
        address = f"http://127.0.0.1:{free_port()}" if server == "nobody" else uri
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder.path)],
            env=os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "closed\n"
        closed = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - closed < 25  # now and then W&B's process takes 10 s more to give up
    assert process.returncode == 0
    assert errors.count("warning: tracking: wandb") == 1, errors
    assert len(read_jsonl(folder.metrics)) == 49
    assert not [path for path in folder.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
