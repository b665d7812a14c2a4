"""Runs beside each other: what each role earned, how sure that is, and in what the runs differ.

Runs that differ in nothing but their seed are one group. What an interval covers depends on the group, and is said:

- one run: the interval of its own evaluation, which resamples the evaluated markets and blocks of time. It tells how
  well these trained policies are known, and nothing about what another seed would have learned.
- several runs: the mean of the runs and its Student t interval over them. With the usual three to ten seeds the
  percentile bootstrap over runs (Agarwal et al. 2021) is too narrow; t is not, where runs are roughly normal.

The interval of a difference of two groups joins their intervals by squares, each side on its own (Zou and Donner 2008).
It takes them as independent; runs that are evaluated in the same markets move together, so it is rather too wide.

Belongs here: reading finished runs, grouping, intervals, differences of settings. Does not belong here: the command
line (`jaxarena.compare`) and the picture (`plots.comparison_figure`).
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from jaxarena.core.schema import nearest
from jaxarena.data.splits import SPLITS
from jaxarena.experiment.files import read_json
from jaxarena.experiment.metrics import Estimate
from jaxarena.experiment.run import find_run
from jaxarena.experiment.yaml_text import read_yaml

_CONFIDENCE = 0.95
#: Settings that tell runs of one experiment apart without changing what is tried.
_PER_RUN = ("seed", "run_dir", "tracking", "name")
#: Settings that decide what the evaluated markets are like, and so what a metric means ...
_WORLD = re.compile(r"(data|market)(\.|$)|evaluation\.(markets|seed|deterministic)$")
_PERIOD = re.compile(rf"data\.({'|'.join(SPLITS)})(\.|$)")  # of which only the evaluated one counts
#: ... but not those that only decide what an agent sees, can do and is paid for.
_AGENT = re.compile(r"market\.(indicators|risk_memory|roles\.\d+\.(observations|action|rewards))(\.|$)")


@dataclasses.dataclass(frozen=True)
class Run:
    """What is compared of one run."""

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    roles: dict[str, dict[str, Estimate]]  # role to metric to what the evaluation found

    @property
    def setting(self) -> dict[str, Any]:
        """The configuration without what may differ within a group."""
        return {key: value for key, value in self.config.items() if key not in _PER_RUN}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    name: str
    runs: tuple[Run, ...]

    @property
    def over(self) -> str:
        """What the intervals resample."""
        return "markets" if len(self.runs) == 1 else f"{len(self.runs)} seeds"

    def estimate(self, role: str, metric: str) -> Estimate:
        """The metric of a role: of the one run, or the mean of several with its t interval."""
        cells = [run.roles.get(role, {}).get(metric, Estimate(None, reason="not in this run")) for run in self.runs]
        return cells[0] if len(cells) == 1 else _mean_of_runs(cells)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    metric: str
    role: str
    group: str
    over: str
    estimate: Estimate
    difference: Estimate | None  # from the first group; None for the first group itself


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side."""

    split: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    changes: dict[str, dict[str, tuple[Any, Any]]]  # group to dotted key to its value in the first group and here
    notes: tuple[str, ...]  # what a reader should know before believing a difference

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "split": self.split,
            "groups": {group.name: [str(run.path) for run in group.runs] for group in self.groups},
            "rows": [_plain_row(row) for row in self.rows],
            "changes": self.changes,
            "notes": list(self.notes),
        }


def compare(paths: Sequence[Path], metrics: Sequence[str], split: str = "test", *, anyway: bool = False) -> Comparison:
    """Compare finished runs; the first one, or its group, is what differences are taken from.

    Args:
        paths: folders of runs.
        metrics: names of what to compare; empty for all that the first run has.
        split: whose evaluation.
        anyway: compare runs of different markets or data too, with a note.

    Raises:
        ValueError: no run there, a run without that evaluation, an unknown metric, or runs that cannot be compared.
    """
    runs, notes = _distinct([read_result(path, split) for path in paths])
    groups = _groups(runs)
    first = groups[0]
    changes = {group.name: differences(first.runs[0].setting, group.runs[0].setting) for group in groups[1:]}
    for name, changed in changes.items():
        world = {key: pair for key, pair in changed.items() if _decides_market(key, split)}
        if not world:
            continue
        problem = f"{name} was judged in other markets than {first.name}, so that metrics do not mean the same"
        if not anyway:
            raise ValueError(f"{problem}: {_in_short(world)}. Compare runs of one market, or give --anyway")
        notes.append(f"{problem}: {_in_short(world)}")
    notes += _version_notes(groups)
    known = _known_metrics(groups)
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"--metric: unknown metric {metric!r}; {nearest(metric, known)}")
    return Comparison(split, groups, _rows(groups, list(metrics) or known), changes, tuple(notes))


def read_result(path: Path, split: str) -> Run:
    """A run and the evaluation of its learned roles on a split.

    Raises:
        ValueError: no run there, or it was not evaluated on that split.
    """
    folder = find_run(path)
    evaluations = {result["split"]: result for result in folder.read_evaluations().values()}
    if split not in evaluations:
        done = f"evaluated on {', '.join(evaluations)}" if evaluations else "not evaluated yet"
        raise ValueError(f"{path}: {done}; run: jaxarena evaluate {path} --split {split}")
    roles = {
        role: {metric: _as_estimate(cell) for metric, cell in cells.items()}
        for role, cells in evaluations[split]["roles"].items()
    }
    config = read_yaml(folder.config.read_text(encoding="utf-8"))
    return Run(path, config, read_json(folder.meta)["versions"], roles)


def differences(before: Any, after: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; None where a side has none.

    >>> differences({"ppo": {"lr": 0.1, "epochs": 4}}, {"ppo": {"lr": 0.2, "epochs": 4}})
    {'ppo.lr': (0.1, 0.2)}
    """
    if isinstance(before, list) and isinstance(after, list):
        before, after = ({str(place): item for place, item in enumerate(items)} for items in (before, after))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        inner = (differences(before.get(key), after.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return {key: pair for found in inner for key, pair in found.items()}
    return {} if before == after else {path: (before, after)}


def _decides_market(key: str, split: str) -> bool:
    """Whether a setting changes the markets that an evaluation on the split plays."""
    period = _PERIOD.match(key)
    return bool(_WORLD.match(key) and not _AGENT.match(key)) and (period is None or period[1] == split)


def told(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Differences for people, one text each.

    >>> told({"ppo.lr": (0.1, 0.2)})
    ['ppo.lr: 0.1 -> 0.2']
    """
    return [f"{key}: {json.dumps(before)} -> {json.dumps(after)}" for key, (before, after) in changes.items()]


def _in_short(changes: Mapping[str, tuple[Any, Any]], most: int = 4) -> str:
    """The first few differences on one line."""
    texts = told(changes)
    more = f"; and {len(texts) - most} more settings" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def _distinct(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Runs without repeats of an experiment with an equal seed, which would count one result twice."""
    kept: list[Run] = []
    notes = []
    for run in runs:
        twin = next((k for k in kept if k.setting == run.setting and k.config["seed"] == run.config["seed"]), None)
        if twin is None:
            kept.append(run)
        else:
            notes.append(f"{run.path} repeats {twin.path}, seed included; it is left out")
    return kept, notes


def _groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Runs by their setting, in the order of the first of each."""
    members: list[list[Run]] = []
    for run in runs:
        mine = next((group for group in members if group[0].setting == run.setting), None)
        if mine is None:
            members.append([run])
        else:
            mine.append(run)
    names = [_shortest([str(group[0].path) for group in members], place) for place in range(len(members))]
    return tuple(
        Group(name if len(runs) == 1 else f"{name} +{len(runs) - 1}", tuple(runs))
        for name, runs in zip(names, members, strict=True)
    )


def _shortest(paths: Sequence[str], place: int) -> str:
    """The folder's own name, or its whole path where another folder is called the same."""
    names = [Path(path).resolve().name for path in paths]
    return names[place] if names.count(names[place]) == 1 else paths[place]


def _version_notes(groups: Sequence[Group]) -> list[str]:
    """Programs that differ between the first run and another."""
    runs = [run for group in groups for run in group.runs]
    return [
        f"{run.path} was made with other versions than {runs[0].path}: {_in_short(changed)}"
        for run in runs[1:]
        if (changed := differences(runs[0].versions, run.versions))
    ]


def _known_metrics(groups: Sequence[Group]) -> list[str]:
    rows = (cells for group in groups for run in group.runs for cells in run.roles.values())
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))


def _rows(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[Row, ...]:
    roles = list(dict.fromkeys(role for group in groups for run in group.runs for role in run.roles))
    rows = []
    for metric, role in itertools.product(metrics, roles):
        base = groups[0].estimate(role, metric)
        for group in groups:
            estimate = group.estimate(role, metric)
            difference = None if group is groups[0] else difference_of(estimate, base)
            rows.append(Row(metric, role, group.name, group.over, estimate, difference))
    return tuple(rows)


def _mean_of_runs(cells: Sequence[Estimate]) -> Estimate:
    """Mean over runs and its Student t interval."""
    values = np.array([cell.value for cell in cells if cell.value is not None])
    if values.size < len(cells):
        return Estimate(None, reason="undefined in some of the runs")
    mean = float(values.mean())
    half = float(stdtrit(values.size - 1, 0.5 + 0.5 * _CONFIDENCE) * values.std(ddof=1) / np.sqrt(values.size))
    return Estimate(mean, mean - half, mean + half)


def difference_of(one: Estimate, other: Estimate) -> Estimate:
    """`one - other` of two independent estimates, with the interval that theirs imply.

    Source: Zou, G. Y. and Donner, A. (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27(10).

    >>> difference_of(Estimate(5.0, 2.0, 8.0), Estimate(1.0, -3.0, 5.0))
    Estimate(value=4.0, low=-1.0, high=9.0, reason='')
    """
    if one.value is None or other.value is None:
        return Estimate(None, reason=one.reason or other.reason)
    value = one.value - other.value
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Estimate(value, reason=one.reason or other.reason)
    below = np.hypot(one.value - one.low, other.high - other.value)
    above = np.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, float(value - below), float(value + above))


def _as_estimate(cell: Mapping[str, Any]) -> Estimate:
    low, high = cell["interval"] or (None, None)
    return Estimate(cell["value"], low, high, cell.get("reason", ""))


def _plain_row(row: Row) -> dict[str, Any]:
    difference = None if row.difference is None else row.difference.as_dict()
    return dataclasses.asdict(row) | {"estimate": row.estimate.as_dict(), "difference": difference}
