"""What a run's numbers depend on, as hashes: `manifest.json` of the run folder.

```
inputs       written at the start: data, code, seeds, versions of packages, machine
files        of config.yaml, the last checkpoint and policy.npz, when the run was evaluated
evaluations  of the numbers in summary.json, by their part
```

Hashes are SHA-256. Belongs here: taking them. Does not belong here: comparing them with a run's (`reproduce`).
"""

import hashlib
import importlib.resources
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxarena.data.sources import path_of
from jaxarena.data.splits import load_split
from jaxarena.experiment.config import ExperimentConfig
from jaxarena.experiment.files import plain

#: Splits that every run with data reads.
_USED = ("train", "test")


def describe_inputs(config: ExperimentConfig, versions: dict[str, Any]) -> dict[str, Any]:
    """All that decides a run's numbers, apart from its configuration file.

    Args:
        config: of the run.
        versions: of Python and of the packages.

    Raises:
        ValueError: the data cannot be read.
    """
    return {
        "data": data_hashes(config),
        "code": code_hash(),
        "seeds": [*range(config.seed, config.seed + config.seeds), config.evaluation.seed],
        "packages": versions,
        "machine": machine_kind(),
    }


def data_hashes(config: ExperimentConfig) -> dict[str, str] | None:
    """Of the data file, and of dates, prices and volumes as they are trained and judged on; None without data."""
    if config.data is None:
        return None
    hashes = {"file": file_hash(path_of(config.data.source))}
    for split in _USED:
        history = load_split(config.data, split)
        digest = hashlib.sha256(json.dumps(history.symbols).encode())
        for array in (history.dates.astype("datetime64[D]").astype(np.int64), *history.columns.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        hashes[split] = digest.hexdigest()
    return hashes


def code_hash() -> str:
    """Of the package's Python files, by name and content."""
    root = Path(str(importlib.resources.files("jaxarena")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine_kind() -> dict[str, str]:
    """What floating point depends on: machines of one kind give the same bits."""
    device = jax.devices()[0]
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": _cpu(), "device": str(device.device_kind)}


def file_hash(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def numbers_hash(numbers: Any) -> str:
    """Of plain data, whatever the order of its keys.

    >>> numbers_hash({"a": 1, "b": None}) == numbers_hash({"b": None, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(plain(numbers), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
