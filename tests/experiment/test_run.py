import json
import re
import subprocess

import pytest

from jaxarena.experiment.config import load_config
from jaxarena.experiment.run import create_run, git_state, open_run


def test_folder_holds_what_is_needed_to_repeat(config_file, tmp_path):
    config = load_config(config_file)
    folder = create_run(config, ["python", "-m", "jaxarena.train", "a b.yaml"], root=tmp_path / "runs")
    assert re.fullmatch(r"tiny__s3__\d{8}-\d{6}", folder.path.name)
    assert load_config(folder.config) == config
    meta = json.loads(folder.meta.read_text())
    assert meta["command"] == "python -m jaxarena.train 'a b.yaml'"
    assert meta["seed"] == 3
    assert meta["device"]["count"] >= 1
    assert all(meta["versions"][name] for name in ("python", "jax", "flax", "optax", "numpy", "jaxarena"))


def test_two_runs_in_one_second_get_two_folders(config_file, tmp_path):
    config = load_config(config_file)
    first, second = (create_run(config, root=tmp_path / "runs").path for _ in range(2))
    assert first != second


def test_a_used_folder_is_refused_with_the_remedy(config_file, tmp_path):
    config = load_config(config_file, [f"run_dir={tmp_path / 'mine'}"])
    (tmp_path / "mine").mkdir()
    folder = create_run(config)
    assert folder.path == tmp_path / "mine"
    with pytest.raises(ValueError, match=r"exists and is not empty; resume it with --resume .*mine"):
        create_run(config)


def test_resume_keeps_the_start_and_notes_the_resume(config_file, tmp_path):
    config = load_config(config_file)
    folder = create_run(config, ["first"], root=tmp_path)
    again, same = open_run(folder.path, ["second"])
    assert same == config
    open_run(again.path, ["third"])
    meta = json.loads(folder.meta.read_text())
    assert meta["command"] == "first"
    assert [resume["command"] for resume in meta["resumed"]] == ["second", "third"]


def test_resume_of_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_run(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"has no config\.yaml \(it holds: notes\.txt\)"):
        open_run(tmp_path)


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    assert re.fullmatch("[0-9a-f]{40}", git_state(tmp_path)["commit"])
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
