"""The folder of one run: what was asked, by which program, on which machine, and what came out.

```
runs/<name>__s<seed>__<time>/
  config.yaml      everything resolved: presets merged, overrides applied
  meta.json        versions, device, commit, command line, start time; a list of resumes
  manifest.json    hashes of what the numbers depend on, and of the numbers, for jaxarena.verify
  metrics.jsonl    one record per logged step
  checkpoints/     the last few training states
  policy.npz       the trained policies, for jaxarena.load_policy
  summary.json     results in numbers
  recording.json   one evaluated market, step by step
  trades.csv       every trade of that market, its reason and what it cost
  plots/           pictures (.svg, .png)
  report.html      all of it on one page
  tracking/        what the backends of `tracking:` keep on this machine, ids of tracked runs among it
```

Belongs here: making, finding and describing that folder. Does not belong here: filling it.
"""

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxarena.experiment.config import ExperimentConfig, dump_config, load_config
from jaxarena.experiment.files import read_json, write_json, write_text
from jaxarena.experiment.manifest import describe_inputs
from jaxarena.learn.policy_file import FILE_NAME

#: The program that makes a run unless another is named.
PROGRAM = "jaxarena.train"
_PACKAGES = ("jaxarena", "jax", "jaxlib", "flax", "optax", "numpy")


class RunFolder:
    """Paths of a run; see the module's text for what lies where."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.meta = self.path / "meta.json"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.policy = self.path / FILE_NAME
        self.summary = self.path / "summary.json"
        self.plots = self.path / "plots"
        self.report = self.path / "report.html"

    def recording(self, suffix: str = "") -> Path:
        """Of the market that an evaluation recorded; `suffix` is `_<split>` for other splits than the main one."""
        return self.path / f"recording{suffix}.json"

    def trades(self, suffix: str = "") -> Path:
        """Of the same market."""
        return self.path / f"trades{suffix}.csv"

    def read_summary(self) -> dict[str, Any]:
        """What `summary.json` holds; nothing for a run that has not come that far.

        Raises:
            ValueError: the file is damaged.
        """
        return dict(read_json(self.summary)) if self.summary.is_file() else {}

    def read_evaluations(self) -> dict[str, Any]:
        """The parts of `summary.json` that are evaluations: `eval`, and `eval_<split>` of further splits.

        Raises:
            ValueError: the file is damaged.
        """
        return {part: numbers for part, numbers in self.read_summary().items() if part.startswith("eval")}


def create_run(
    config: ExperimentConfig,
    command: list[str] | None = None,
    root: Path = Path("runs"),
    program: str = PROGRAM,
) -> RunFolder:
    """Make the folder of a new run and write `config.yaml`, `meta.json` and `manifest.json` into it.

    Args:
        config: its `run_dir` is used when set; otherwise `root/<name>__s<seed>__<time>`.
        command: command line to record; default this process's.
        root: where unnamed runs go.
        program: the module that trains, and can resume what it began.

    Raises:
        ValueError: the folder exists and is not empty; the data cannot be read.
    """
    if config.run_dir is not None:
        path = Path(config.run_dir)
    else:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        path = _unused(root / f"{config.name}__s{config.seed}__{stamp}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"run_dir: {path} exists and is not empty; resume it with --resume {path}, choose another run_dir, "
            "or delete it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as space:
        made = RunFolder(Path(space) / path.name)
        made.path.mkdir()
        write_text(made.config, dump_config(config))
        meta = describe_run(config, command, program)
        write_json(made.meta, meta)
        write_json(made.manifest, {"inputs": describe_inputs(config, meta["versions"])})
        made.path.rename(path)  # a folder that is there is a run that can be resumed, whenever this is cut off
    return RunFolder(path)


def find_run(path: Path) -> RunFolder:
    """The folder of an existing run.

    Raises:
        ValueError: no run folder there.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        there = sorted(item.name for item in folder.path.iterdir()) if folder.path.is_dir() else None
        found = "does not exist" if there is None else f"has no config.yaml (it holds: {', '.join(there) or 'nothing'})"
        raise ValueError(f"{path}: no run there, the folder {found}; give the folder that a run printed at its start")
    return folder


def read_run(path: Path) -> tuple[RunFolder, ExperimentConfig]:
    """The folder and configuration of an existing run.

    Raises:
        ValueError: no run folder there, or its configuration is damaged.
    """
    folder = find_run(path)
    return folder, load_config(folder.config)


def open_run(path: Path, command: list[str] | None = None) -> tuple[RunFolder, ExperimentConfig]:
    """Open an existing run to resume it; the resume is added to `meta.json`.

    Raises:
        ValueError: no run folder there, or its files are damaged.
    """
    folder, config = read_run(path)
    meta = read_json(folder.meta)
    again = describe_run(config, command)
    meta.setdefault("resumed", []).append({key: again[key] for key in ("started", "command", "versions", "device")})
    write_json(folder.meta, meta)
    return folder, config


def describe_run(config: ExperimentConfig, command: list[str] | None = None, program: str = PROGRAM) -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, device, commit, seed, time, command line and program."""
    devices = jax.devices()
    return {
        "name": config.name,
        "seed": config.seed,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(_command() if command is None else command),
        "program": program,
        "versions": package_versions(),
        "device": {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)},
        "system": f"{platform.system()} {platform.machine()}",
        "git": git_state(Path.cwd()),
    }


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that numbers depend on; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the working tree around `folder` and whether it has changes; None outside of one or without Git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _command() -> list[str]:
    """This process's command line, with `python -m` where the program is a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return ["python", *sys.argv] if sys.argv[0].endswith(".py") else list(sys.argv)
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that does not exist (two runs in one second)."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
