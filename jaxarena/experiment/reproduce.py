"""Whether a run's numbers can be had again: its files against their hashes, its evaluation against a new one.

Belongs here: comparing. Does not belong here: taking hashes (`manifest`), evaluating (`evaluate`). Nothing in the run
folder is changed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxarena.experiment.checkpoint import CheckpointError
from jaxarena.experiment.config import ExperimentConfig
from jaxarena.experiment.evaluate import evaluate
from jaxarena.experiment.files import read_json
from jaxarena.experiment.manifest import describe_inputs, file_hash, numbers_hash
from jaxarena.experiment.results import numbers_of
from jaxarena.experiment.run import PROGRAM, RunFolder, package_versions, read_run
from jaxarena.experiment.training import Trainer, policies_of, restore_trained

#: Largest difference, relative to the number or absolute, of a number that another kind of machine has reproduced.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Difference:
    """A number that came out otherwise."""

    name: str  # where it stands in summary.json, as `eval.roles.fund.sharpe.value`
    recorded: Any
    recomputed: Any

    def __str__(self) -> str:
        return f"{self.name}: recorded {self.recorded!r}, recomputed {self.recomputed!r}"


@dataclasses.dataclass(frozen=True)
class Verification:
    """What became of a check."""

    changed: tuple[str, ...]  # files of the run, or data, that are not those of the run any more
    other: tuple[str, ...]  # what differs around it: code, packages, machine
    same_kind: bool  # of machine and packages: then numbers must be equal to the last bit
    compared: int  # numbers
    differences: tuple[Difference, ...]

    @property
    def reproduced(self) -> bool:
        """Whether the run is as it was and its numbers came out again."""
        return not self.changed and not self.differences


def verify_run(path: Path) -> Verification:
    """Check the files of a finished run, play its evaluations again and compare every number.

    Raises:
        ValueError: no run there, an unfinished one, one without a manifest, or one of another program; or its data
            cannot be read any more.
        CheckpointError: no usable checkpoint.
    """
    folder, config = read_run(path)
    manifest, recorded = _read(folder)
    inputs = describe_inputs(config, package_versions())
    changed = (*_changed_files(folder, manifest, recorded), *_changed_data(manifest["inputs"], inputs))
    other = tuple(_other(manifest["inputs"], inputs))
    same_kind = all(manifest["inputs"][name] == inputs[name] for name in ("packages", "machine"))
    found = _evaluate_again(folder, config, [part["split"] for part in recorded.values()])
    pairs = list(_numbers(recorded, dict(zip(recorded, found, strict=True))))
    tolerance = 0.0 if same_kind else TOLERANCE
    differences = tuple(Difference(*pair) for pair in pairs if not _equal(pair[1], pair[2], tolerance))
    return Verification(changed, other, same_kind, len(pairs), differences)


def _read(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest, and the evaluations in summary.json by part.

    Raises:
        ValueError: there is nothing to compare with.
    """
    program = read_json(folder.meta).get("program", PROGRAM)
    if program != PROGRAM:
        raise ValueError(f"{folder.path}: made by {program}, whose checkpoints only that program can play again")
    recorded = folder.read_evaluations()
    if not recorded:
        raise ValueError(
            f"{folder.path}: the run is not finished, it has no evaluation; go on with: "
            f"python -m jaxarena.train --resume {folder.path}"
        )
    manifest = read_json(folder.manifest)
    if missing := {"inputs", "files", "evaluations"} - manifest.keys():
        raise ValueError(f"{folder.manifest}: has no {min(missing)!r}; evaluate the run again to write it anew")
    return manifest, recorded


def _changed_files(folder: RunFolder, manifest: Mapping[str, Any], recorded: Mapping[str, Any]) -> Iterator[str]:
    for name, was in manifest["files"].items():
        path = folder.path / name
        if not path.is_file():
            yield f"{name} is missing"
        elif file_hash(path) != was:
            yield f"{name} was changed"
    for part, numbers in recorded.items():
        if numbers_hash(numbers) != manifest["evaluations"].get(part):
            yield f"summary.json was changed, in its part {part!r}"


def _changed_data(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = was["data"] or {}, now["data"] or {}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield "the data file was changed" if name == "file" else f"the data of the split {name!r} are others"


def _other(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if was["code"] != now["code"]:
        yield "the code of jaxarena is not the one that made the run"
    for part in ("packages", "machine"):
        for name in sorted(was[part].keys() | now[part].keys()):
            before, after = was[part].get(name), now[part].get(name)
            if before != after:
                yield f"{name}: {before} then, {after} now"


def _evaluate_again(folder: RunFolder, config: ExperimentConfig, splits: Sequence[str]) -> list[dict[str, Any]]:
    trainer = Trainer(config)
    try:
        policies = policies_of(restore_trained(trainer, folder)[0])
    except CheckpointError as error:
        raise CheckpointError(f"{error}; without it the numbers cannot be had again") from error
    return [numbers_of(evaluate(config, trainer.ppo, policies, split)) for split in splits]


def _numbers(recorded: Any, found: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf of two trees of plain data, by its name; a missing one is None."""
    if isinstance(recorded, dict) or isinstance(found, dict):
        first, second = recorded or {}, found or {}
        for key in dict.fromkeys((*first, *second)):
            yield from _numbers(first.get(key), second.get(key), f"{name}.{key}" if name else str(key))
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for i, pair in enumerate(zip(recorded, found, strict=True)):
            yield from _numbers(*pair, f"{name}[{i}]")
    else:
        yield name, recorded, found


def _equal(recorded: Any, found: Any, tolerance: float) -> bool:
    if isinstance(recorded, float) and isinstance(found, float) and tolerance:
        return math.isclose(recorded, found, rel_tol=tolerance, abs_tol=tolerance)
    return bool(recorded == found)
