"""What is deployed is what is tested: locks, image, compose file, Kubernetes job, workflows."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STYLE = (
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable, truthy: {check-keys: false}, "
    "braces: disable, comments: {min-spaces-from-content: 1}}}"
)


def tool(name):
    """Path of a program of the environment, or a skip."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_yaml_is_well_formed():
    run(tool("yamllint"), "-d", STYLE, *DEPLOY.glob("*.yaml"), *WORKFLOWS)


def test_workflows_and_compose_file_follow_their_schemas():
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_job_follows_kubernetes_schema():
    run(tool("kubernetes-validate"), "--strict", DEPLOY / "kubernetes-job.yaml")


def test_shell_is_sound(tmp_path):
    run(tool("shellcheck"), *DEPLOY.glob("*.sh"), ROOT / ".ci" / "run")
    lines = [f"{arguments}\n" for word, arguments in instructions() if word == "RUN"]
    for name, script in {"image.sh": "".join(lines), "job.sh": job_script()}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        run(tool("shellcheck"), tmp_path / name)


def instructions():
    """Words and arguments of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def job():
    documents = yaml.safe_load_all((DEPLOY / "kubernetes-job.yaml").read_text())
    return next(document for document in documents if document["kind"] == "Job")


def job_script():
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["sh", "-c"]
    return container["command"][2]


def test_the_image_is_locked_and_runs_as_nobody_in_particular():
    steps = instructions()
    assert [word for word, _ in steps].count("FROM") == 3
    installs = [arguments for word, arguments in steps if word == "RUN" and " install " in arguments]
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs if "pip" in line)
    last = steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM") :]
    assert ("USER", "jaxarena") in last
    assert ("ENTRYPOINT", '["jaxarena"]') in last
    assert PROJECT["scripts"]["jaxarena"] == "jaxarena.__main__:main"
    copied = {text.split()[0] for word, text in steps if word == "COPY" and "--from" not in text}
    ignored = (ROOT / ".dockerignore").read_text()
    for source in copied:
        assert list(ROOT.glob(source.replace("${DEVICE}", "*")))
        assert f"!{source.replace('${DEVICE}', '*').split('-')[0]}" in ignored


@pytest.mark.parametrize(("device", "extras"), [("cpu", []), ("cuda12", ["cuda12"]), ("cuda13", ["cuda13"])])
def test_locks_hold_what_the_package_needs(device, extras):
    text = (DEPLOY / f"requirements-{device}.txt").read_text()
    assert "://" not in text
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)==([^ \\]+) .*\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    assert len(pins) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    versions = {name.lower().replace("_", "-"): version for name, version, _ in pins}
    optional = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for extra in ("tracking", *extras) for line in optional[extra])]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower().replace("_", "-")]), requirement


def test_the_tracking_server_of_the_compose_file_answers(tmp_path):
    pytest.importorskip("flask", reason="the server needs the package mlflow, not mlflow-skinny")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = services["mlflow"]["command"].replace("5000", str(port)).replace("/mlflow/", f"{tmp_path}/")
    command = [tool("mlflow"), *shlex.split(text.replace("0.0.0.0", "127.0.0.1"))[1:]]
    check = services["mlflow"]["healthcheck"]["test"]
    address = re.search(r"http://localhost:5000(\S+)'", check[-1])[1]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{address}", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.5)
        else:
            pytest.fail("no answer in a minute")
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.mark.slow
def test_the_image_built_and_its_job_killed_and_resumed_outside_a_container(tmp_path):
    """The Dockerfile's own commands in another folder, then the job's command twice, the first one killed."""
    place = {"/opt/jaxarena": tmp_path / "opt", "/wheel": tmp_path / "wheel"}
    environment = os.environ | {"DEVICE": "cpu", "PIP_QUIET": "1"}

    def here(text):
        for there, path in place.items():
            text = re.sub(rf"(?<![\w/]){there}(?=[/ \n]|$)", str(path), text)
        return text.replace("/requirements.txt", str(DEPLOY / "requirements-cpu.txt"))

    for word, arguments in instructions():
        if word == "RUN" and "useradd" not in arguments and "requirements-build" not in arguments:
            text = arguments.replace(" --no-build-isolation", "").replace("pip wheel", f"{sys.executable} -m pip wheel")
            run("sh", "-ec", here(text), cwd=ROOT, env=environment)
    folder = tmp_path / "work" / "runs" / "default"
    folder.parent.mkdir(parents=True)
    short = " train.markets=4 train.updates_per_chunk=1 ppo.rollout_length=16 train.agent_steps=50_000"
    short += " evaluation.markets=2 evaluation.draws=20 train.checkpoint_every_s=0.1"
    script = job_script().replace('run_dir="$RUN"', f'run_dir="$RUN"{short}')
    inside = os.environ | {"PATH": f"{place['/opt/jaxarena']}/bin:{os.environ['PATH']}", "RUN": "runs/default"}
    first = subprocess.Popen(["sh", "-c", script], cwd=tmp_path / "work", env=inside, stderr=subprocess.DEVNULL)
    while first.poll() is None and len(list(folder.glob("checkpoints/*.npz"))) < 2:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9, "the run ended before it was killed"
    run("sh", "-c", script, cwd=tmp_path / "work", env=inside)
    assert (folder / "report.html").is_file()
