"""What a run leaves for its reader: `summary.json`, plots and the report, from an evaluation.

Belongs here: which numbers and pictures go where. Does not belong here: computing (`evaluate`) and drawing (`plots`).
"""

from typing import Any

from jaxarena.experiment.evaluate import Evaluation
from jaxarena.experiment.files import read_json, write_json
from jaxarena.experiment.plots import (
    drawdown_figure,
    equity_figure,
    flow_figure,
    learning_figure,
    save_figure,
    weights_figure,
)
from jaxarena.experiment.report import write_report
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import read_jsonl

#: The split whose results stand under `eval`; those of another stand under `eval_<split>`.
MAIN_SPLIT = "test"


def write_train_summary(folder: RunFolder, train: dict[str, Any]) -> None:
    """Put the `train` part into `summary.json`, so that it is there even if the evaluation fails."""
    write_json(folder.summary, _summary(folder) | {"train": train})


def write_evaluation(folder: RunFolder, evaluation: Evaluation) -> None:
    """Put an evaluation into `summary.json`, draw it, and write the report anew."""
    suffix = "" if evaluation.split == MAIN_SPLIT else f"_{evaluation.split}"
    entry = {"split": evaluation.split, "markets": evaluation.markets, "note": _note(evaluation)}
    metrics = {
        kind: {name: {metric: estimate.as_dict() for metric, estimate in row.items()} for name, row in rows.items()}
        for kind, rows in evaluation.metrics().items()
    }
    draw(folder, evaluation, suffix)
    write_json(folder.summary, _summary(folder) | {f"eval{suffix}": entry | metrics})
    write_report(folder)


def is_finished(folder: RunFolder) -> bool:
    """Whether the run was trained, evaluated and reported."""
    return folder.report.is_file() and {"train", "eval"} <= _summary(folder).keys()


def draw(folder: RunFolder, evaluation: Evaluation, suffix: str = "") -> None:
    """Plots of an evaluation and, from the records, of learning: `plots/*.svg` and `.png`."""
    dates, sample = evaluation.dates, evaluation.sample
    after = None if dates is None else dates[1:]
    roles = {name: curves.equity for name, curves in evaluation.roles.items()}
    baselines = {name: curves.equity for name, curves in evaluation.baselines.items()}
    figures = {
        "equity": equity_figure(roles, baselines, dates),
        "drawdown": drawdown_figure(roles, baselines, dates),
        "flow": flow_figure(
            sample.price[:, 0], {role: flow[:, 0] for role, flow in sample.flow.items()}, after, sample.asset_names[0]
        ),
    }
    holdings = ("cash", *sample.asset_names)
    for role in evaluation.roles:
        figures[f"weights_{role}"] = weights_figure(f"Portfolio of {role}", sample.weights[role], holdings, after)
    figures = {f"{name}{suffix}": figure for name, figure in figures.items()}
    figures |= _learning(folder, list(evaluation.roles))
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            save_figure(figure, folder.plots / f"{name}.{kind}")


def _learning(folder: RunFolder, roles: list[str]) -> dict[str, Any]:
    records = read_jsonl(folder.metrics)
    groups = [name.removeprefix("entropy/") for name in (records[0] if records else {}) if name.startswith("entropy/")]
    returns = [f"return/{role}" for role in roles]
    diagnostics = [f"{name}/{group}" for group in groups for name in ("entropy", "explained_variance")]
    return {
        "learning": learning_figure(records, returns, "Return of an episode"),
        "learning_policy": learning_figure(records, diagnostics, "Policies and critics"),
    }


def _note(evaluation: Evaluation) -> str:
    span = "" if evaluation.dates is None else f" from {evaluation.dates[0]} to {evaluation.dates[-1]}"
    steps = next(iter(evaluation.roles.values())).traded.shape[1]
    return (
        f"{evaluation.markets} markets of {steps} steps{span}. A baseline takes the place of all learned roles at "
        f"once; it is reported by the agents that stand in for {evaluation.baseline_role!r}, with its money and limits."
    )


def _summary(folder: RunFolder) -> dict[str, Any]:
    return dict(read_json(folder.summary)) if folder.summary.is_file() else {}
