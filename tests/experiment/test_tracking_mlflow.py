"""Against a real server, which the tests start."""

import dataclasses
import importlib.util
import itertools
import json
import signal
import subprocess
import sys
import time

import pytest

from jaxarena import train
from jaxarena.experiment import training
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import follow, read_jsonl
from tests.experiment.tracking_servers import MlflowServer, answering

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'jaxarena[tracking]'")
if importlib.util.find_spec("flask") is None:  # what `mlflow` has over `mlflow-skinny`
    pytest.skip("MLflow's server is not installed: pip install mlflow", allow_module_level=True)

# MLflow's own tables, as seen by SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server")).start()
    yield server
    server.kill()


def backend(uri, **settings):
    return [{"kind": "mlflow", "uri": uri, "close_s": 60, **settings}]


def ids(folder):
    return json.loads((folder.path / "tracking" / "mlflow.json").read_text())["ids"]


def steps(client, run_id, name="loss/careful"):
    return [metric.step for metric in client.get_metric_history(run_id, name)]


def test_a_whole_run_of_the_command_line_arrives(config_file, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    folder = RunFolder(tmp_path / "mine")
    tracking = "tracking=[{kind: mlflow, experiment: whole, close_s: 60}]"
    short = ("train.updates_per_chunk=20", "ppo.epochs=1", "evaluation.baselines=[hold]", "evaluation.draws=20")
    assert train.main([str(config_file), tracking, *short, f"run_dir={folder.path}"]) == 0
    assert "warning" not in capsys.readouterr().err
    client = mlflow.MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("whole").experiment_id])
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params["ppo.lr"] == "0.001"
    assert run.data.params["market.roles.0.name"] == "careful"
    records = read_jsonl(folder.metrics)
    sent = client.get_metric_history(run.info.run_id, "entropy/careful")
    assert [(metric.step, metric.value) for metric in sent] == [(r["step"], r["entropy/careful"]) for r in records]
    sharpe = json.loads(folder.summary.read_text())["eval"]["roles"]["bold"]["sharpe"]["value"]
    assert run.data.metrics["eval/roles/bold/sharpe"] == sharpe
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    left = {path.name for path in folder.path.iterdir()} - {"tracking"}
    assert kept == left
    assert {"config.yaml", "metrics.jsonl", "summary.json", "report.html", "plots", "checkpoints", "policy.npz"} <= kept
    (state,) = client.list_artifacts(run.info.run_id, "checkpoints")
    assert state.path == f"checkpoints/step_{records[-1]['step']:012d}.npz"
    copy = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert RunFolder(tmp_path).report.read_bytes() == folder.report.read_bytes(), copy


def test_a_resumed_run_continues_the_same_run_and_no_step_is_doubled(tracked, write_records, finish_run, server):
    client = mlflow.MlflowClient(server.uri)
    config, folder = tracked(backend(server.uri))
    with follow(config, folder):
        write_records(folder, [8, 16, 24])
    run_id = ids(folder)["run"]
    assert client.get_run(run_id).info.status == "KILLED"
    memory = folder.path / "tracking" / "mlflow.json"
    memory.write_text(
        memory.read_text().replace('"step": 24', '"step": 16')
    )  # as after a kill between sending and remembering
    with follow(config, folder):
        write_records(folder, [24, 32], after=16)
        finish_run(folder)
    assert ids(folder)["run"] == run_id
    assert steps(client, run_id) == [8, 16, 24, 32]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_seeds_are_the_children_of_one_run(tracked, write_records, server):
    client = mlflow.MlflowClient(server.uri)
    config, folder = tracked(backend(server.uri, experiment="seeds"), "seeds=2", "seed=5")
    with follow(config, folder):
        write_records(folder, [8], seeds=2)
    runs = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("seeds").experiment_id])
    }
    assert runs.keys() == {"run", "run_seed_5", "run_seed_6"}
    values = {name: run.data.metrics["loss/careful"] for name, run in runs.items()}
    assert values == {"run": 8.25, "run_seed_5": 8.0, "run_seed_6": 8.5}
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs.values()}
    assert parents == {None, runs["run"].info.run_id}
    assert runs["run_seed_6"].data.params["seed"] == "6"


def test_the_default_store_is_a_file_beside_the_run_which_the_next_run_shares(tracked, write_records, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("one", "two"):
        config, folder = tracked([{"kind": "mlflow", "close_s": 60}], name=name)
        with follow(config, folder):
            write_records(folder, [8])
    store = folder.path.parent / "mlflow.db"
    client = mlflow.MlflowClient(f"sqlite:///{store}")
    runs = client.search_runs([client.get_experiment_by_name("jaxarena").experiment_id])
    assert {run.info.run_name for run in runs} == {"one", "two"}
    assert len(list((store.parent / "mlartifacts").rglob("config.yaml"))) == 2


def test_a_server_killed_in_mid_run_costs_one_warning_and_resuming_sends_the_rest(tracked, server, capsys):
    config, folder = tracked([{"kind": "mlflow", "uri": server.uri, "close_s": 5}], "train.updates_per_chunk=1")
    trainer, client, chunks = training.Trainer(config), mlflow.MlflowClient(server.uri), itertools.count(1)

    def arrived():
        memory = folder.path / "tracking" / "mlflow.json"
        return memory.exists() and steps(client, ids(folder)["run"], "entropy/careful")

    def kill_after_two_chunks():
        if next(chunks) == 2:
            deadline = time.monotonic() + 60
            while not arrived():
                assert time.monotonic() < deadline, "nothing arrived before the server was to be killed"
                time.sleep(0.05)
            server.kill()
            killed.append(time.monotonic())
        return False

    killed = []
    with follow(config, folder):
        _, _, done = training.train(trainer, folder, should_stop=kill_after_two_chunks)
        trained = time.monotonic()
    assert done
    assert trained - killed[0] < 5  # dozens of chunks of a millisecond, each saved
    assert time.monotonic() - trained < 6  # `close_s`, and a second to spare
    records = read_jsonl(folder.metrics)
    assert len(records) == trainer.num_chunks > 20
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "tracking: mlflow failed" in warning
    server.start()
    patient = dataclasses.replace(config, tracking=(config.tracking[0].replace(close_s=60.0),))
    with follow(patient, folder):
        assert steps(client, ids(folder)["run"], "entropy/careful") != [record["step"] for record in records]
    assert steps(client, ids(folder)["run"], "entropy/careful") == [record["step"] for record in records]


@pytest.mark.parametrize("late_s", [0.0, 60.0])
def test_a_server_that_is_broken_or_hangs_does_not_hold_up_a_run(late_s, tracked, write_records, capsys):
    with answering(500, late_s) as uri:
        config, folder = tracked([{"kind": "mlflow", "uri": uri, "close_s": 2}])
        begun = time.monotonic()
        with follow(config, folder):
            write_records(folder, range(1, 50))
            assert time.monotonic() - begun < 1.0
        assert time.monotonic() - begun < 4.0
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1
        assert "warning: tracking: mlflow" in errors[0]
        assert len(read_jsonl(folder.metrics)) == 49


def test_no_secret_of_the_environment_reaches_a_file(tracked, write_records, finish_run, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", "://me:hunter2@"))
    config, folder = tracked([{"kind": "mlflow", "close_s": 60}])
    with follow(config, folder):
        write_records(folder, [8])
        finish_run(folder)
    assert ids(folder)
    assert not [path for path in folder.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


@pytest.mark.slow
def test_a_killed_and_resumed_command_line_is_one_run_with_every_step_once(config_file, server, tmp_path):
    folder = RunFolder(tmp_path / "killed")
    tracking = json.dumps([*backend(server.uri, experiment="killed"), "tensorboard", {"kind": "wandb", "close_s": 60}])
    settings = (
        f"tracking={tracking}",
        "train.agent_steps=200_000",
        "train.updates_per_chunk=20",
        "evaluation.draws=20",
    )
    often = ("train.checkpoint_every_s=0.5", f"run_dir={folder.path}")
    command = [sys.executable, "-m", "jaxarena.train"]
    process = subprocess.Popen([*command, str(config_file), *settings, *often], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (folder.metrics.is_file() and len(read_jsonl(folder.metrics)) > 20):
        assert time.monotonic() < deadline, "no step was made"
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    known = ids(folder)
    subprocess.run([*command, "--resume", str(folder.path)], check=True, capture_output=True)
    assert ids(folder) == known
    client = mlflow.MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("killed").experiment_id])
    assert steps(client, run.info.run_id, "entropy/bold") == [record["step"] for record in read_jsonl(folder.metrics)]
    assert run.info.status == "FINISHED"
    assert (
        len({path.name.rpartition("-")[2] for path in (folder.path / "tracking" / "wandb").glob("offline-run-*")}) == 1
    )
