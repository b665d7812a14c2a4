"""What a run leaves for its reader: `summary.json`, plots and the report, from an evaluation.

Belongs here: which numbers and pictures go where. Does not belong here: computing (`evaluate`) and drawing (`plots`).
"""

import functools
from typing import Any

from jaxarena.data.sources import load
from jaxarena.experiment.auctions import Auctions
from jaxarena.experiment.checkpoint import Checkpoints
from jaxarena.experiment.evaluate import Evaluation
from jaxarena.experiment.files import plain, read_json, write_json
from jaxarena.experiment.manifest import file_hash, numbers_hash
from jaxarena.experiment.plots import (
    drawdown_figure,
    equity_figure,
    facts_figure,
    flow_figure,
    learning_figure,
    payments_figure,
    price_figure,
    save_figure,
    weights_figure,
)
from jaxarena.experiment.quality import StylisedFacts, facts_of_daily_bars
from jaxarena.experiment.recording import write_recording
from jaxarena.experiment.report import write_report
from jaxarena.experiment.run import RunFolder
from jaxarena.experiment.tracking import JsonlTracker, read_jsonl

#: The split whose results stand under `eval`; those of another stand under `eval_<split>`.
MAIN_SPLIT = "test"


def write_train_summary(folder: RunFolder, train: dict[str, Any]) -> None:
    """Put the `train` part into `summary.json`, so that it is there even if the evaluation fails."""
    write_json(folder.summary, folder.read_summary() | {"train": train})


def write_evaluation(folder: RunFolder, evaluation: Evaluation) -> None:
    """Put an evaluation into `summary.json`, draw it, and write the report anew."""
    part, numbers = part_of(evaluation.split), numbers_of(evaluation)
    if evaluation.auctions:
        _log_numbers(folder, evaluation)
    suffix = part.removeprefix("eval")
    draw(folder, evaluation, suffix)
    write_recording(evaluation.recording, folder.recording(suffix), folder.trades(suffix))
    write_json(folder.summary, folder.read_summary() | {part: numbers})
    _write_manifest(folder, part, numbers)
    write_report(folder)


def part_of(split: str) -> str:
    """The part of `summary.json` that holds the evaluation of a split."""
    return "eval" if split == MAIN_SPLIT else f"eval_{split}"


def numbers_of(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as plain data, as it stands in `summary.json`."""
    numbers: dict[str, Any] = {
        "split": evaluation.split,
        "markets": evaluation.markets,
        "note": _note(evaluation),
        **evaluation.metrics(),
    }
    numbers["against_baselines"] = evaluation.against_baselines()
    if evaluation.auctions:
        numbers["comparisons"] = evaluation.comparisons()
        numbers["auctions"] = list(evaluation.auctions)
        numbers["real_bars"] = real_facts()
    return dict(plain(numbers))


def is_finished(folder: RunFolder) -> bool:
    """Whether the run was trained, evaluated and reported."""
    return folder.report.is_file() and {"train", "eval"} <= folder.read_summary().keys()


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
    for auctions in evaluation.auctions:
        figures |= _auction_figures(auctions, "" if len(evaluation.auctions) == 1 else f"_{auctions.asset}")
    figures = {f"{name}{suffix}": figure for name, figure in figures.items()}
    figures |= _learning(folder, list(evaluation.roles))
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            save_figure(figure, folder.plots / f"{name}.{kind}")


@functools.cache
def real_facts() -> StylisedFacts:
    """The stylised facts of the daily bars that come with the package, to hold a made market against."""
    history = load("us_daily", ["AAPL", "IBM", "MSFT"])
    return facts_of_daily_bars(history.close, history.volume)


def _auction_figures(auctions: Auctions, suffix: str) -> dict[str, Any]:
    """Price, memory and payments of one asset's auctions."""
    tape, facts, real = auctions.tape, auctions.facts, real_facts()
    titles = {"returns": "autocorrelation", "absolute returns": "absolute_autocorrelation"}
    made = {f"autocorrelation of {title}": getattr(facts, field) for title, field in titles.items()}
    bars = {f"autocorrelation of {title}": getattr(real, field).value for title, field in titles.items()}
    return {
        f"auction_price{suffix}": price_figure(tape.price[0], tape.value[0], tape.volume[0], auctions.asset),
        f"auction_memory{suffix}": facts_figure(
            {title: of_lags.value for title, of_lags in made.items()},
            {title: (of_lags.low, of_lags.high) for title, of_lags in made.items()},
            bars,
        ),
        f"auction_payments{suffix}": payments_figure(auctions.roles, auctions.payments.value),
    }


def _log_numbers(folder: RunFolder, evaluation: Evaluation) -> None:
    """Append the numbers of the auctions to `metrics.jsonl`, under the last step that was logged."""
    records = read_jsonl(folder.metrics) if folder.metrics.is_file() else []
    if not records:
        return
    numbers: dict[str, Any] = {"split": evaluation.split}
    for auctions in evaluation.auctions:
        prefix = "" if len(evaluation.auctions) == 1 else f"{auctions.asset}/"
        numbers |= {f"{prefix}{name}": value for name, value in auctions.numbers().items()}
    with JsonlTracker(folder.metrics, records[-1]["step"]) as tracker:
        tracker.log(records[-1]["step"], numbers)


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


def _write_manifest(folder: RunFolder, part: str, numbers: dict[str, Any]) -> None:
    """Add the hashes of the files that the numbers came from, and of the numbers."""
    manifest = read_json(folder.manifest) if folder.manifest.is_file() else {}
    checkpoints = Checkpoints(folder.checkpoints)
    last = [checkpoints.path(step) for step in checkpoints.steps()[-1:]]
    paths = [path for path in (folder.config, *last, folder.policy) if path.is_file()]
    manifest["files"] = {path.relative_to(folder.path).as_posix(): file_hash(path) for path in paths}
    manifest["evaluations"] = manifest.get("evaluations", {}) | {part: numbers_hash(numbers)}
    write_json(folder.manifest, manifest)
