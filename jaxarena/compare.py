"""Compare finished runs: a table and a picture with intervals, and in what their settings differ.

Belongs here: the command line and how a comparison is shown. Does not belong here: the statistics
(`jaxarena.experiment.compare`, which says what each interval means).
"""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxarena.command import EXIT_CODES, Parser, guard, print_table, say

if TYPE_CHECKING:
    from jaxarena.experiment.compare import Comparison
    from jaxarena.experiment.metrics import Estimate

_METRICS = ("sharpe", "annual_return", "max_drawdown")
_COLUMNS = ("metric", "role", "run", "value", "95 % interval", "minus first", "95 % interval", "interval over")
_EPILOG = f"""\
examples:
  jaxarena compare runs/a runs/b                         two runs, by Sharpe ratio, return and drawdown
  jaxarena compare runs/a_* runs/b_*                     seeds of two experiments
  jaxarena compare runs/* --metric turnover --metric sortino
  jaxarena compare runs/* --metric all --out comparison  with comparison.svg, .png, .csv and .json in that folder

Differences are taken from the first run. Runs that differ in nothing but their seed are one line: their mean, with a
Student t interval over the runs. The interval of a single run resamples its evaluated markets, and says nothing about
what another seed would have learned: to tell settings apart, train several seeds of each. A difference is starred when
its interval leaves out 0. Runs that were judged in different markets are refused, unless --anyway is given.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    metrics = () if "all" in options.metric else options.metric or _METRICS
    paths = [Path(run) for run in options.runs]
    out = None if options.out is None else Path(options.out)
    return guard(lambda: show(paths, metrics, options.split, anyway=options.anyway, out=out))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="jaxarena compare", description="Compare finished runs, with intervals.", epilog=_EPILOG)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    made.add_argument("--metric", action="append", default=[], metavar="NAME", help="what to compare; `all` is allowed")
    made.add_argument("--split", default="test", help="train, validation or test (default)")
    made.add_argument("--out", metavar="FOLDER", help="write the picture, and the numbers as CSV and JSON")
    made.add_argument("--anyway", action="store_true", help="compare runs of different markets or data too")
    return made


def show(paths: Sequence[Path], metrics: Sequence[str], split: str, *, anyway: bool, out: Path | None) -> None:
    """Print the comparison; with `out`, write it as well.

    Raises:
        ValueError: as `jaxarena.experiment.compare.compare`.
    """
    from jaxarena.experiment.compare import compare, told  # noqa: PLC0415 - after --help, for speed

    comparison = compare(paths, metrics, split, anyway=anyway)
    print_table(_COLUMNS, table(comparison), f"Evaluation on {split}, learned roles")
    for group, changed in comparison.changes.items():
        say(f"\n{group} differs from {comparison.groups[0].name} in:")
        for text in told(changed):
            say(f"  {text}")
    for note in comparison.notes:
        say(f"\nnote: {note}")
    if out is not None:
        write(comparison, out)
        say(f"\nwritten: {out}/comparison.svg, .png, .csv, .json")


def table(comparison: "Comparison") -> list[tuple[str, ...]]:
    """Cells of the rows under `_COLUMNS`."""
    return [
        (row.metric, row.role, row.group, *_cells(row.estimate), *_cells(row.difference, starred=True), row.over)
        for row in comparison.rows
    ]


def write(comparison: "Comparison", out: Path) -> None:
    """`comparison.svg`, `.png`, `.csv` and `.json` in a folder, which is made where it is missing."""
    from jaxarena.experiment.files import write_json, write_text  # noqa: PLC0415
    from jaxarena.experiment.plots import comparison_figure, save_figure  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    figure = comparison_figure([(row.metric, row.role, row.group, row.estimate) for row in comparison.rows])
    for kind in ("svg", "png"):
        save_figure(figure, out / f"comparison.{kind}")
    write_json(out / "comparison.json", comparison)
    write_text(out / "comparison.csv", _csv(comparison))


def _csv(comparison: "Comparison") -> str:
    """Numbers with all their digits; an empty cell is what is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("value", "low", "high")
    writer.writerow(["metric", "role", "run", "over", *numbers, *(f"difference_{name}" for name in numbers)])
    for row in comparison.rows:
        estimates = [getattr(of, name, None) for of in (row.estimate, row.difference) for name in numbers]
        writer.writerow([row.metric, row.role, row.group, row.over, *estimates])
    return text.getvalue()


def _cells(estimate: "Estimate | None", *, starred: bool = False) -> tuple[str, str]:
    """A value and its interval as people read them."""
    if estimate is None:
        return "", ""
    if estimate.value is None:
        return "-", estimate.reason
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g}", ""
    star = " *" if starred and not estimate.low <= 0 <= estimate.high else ""
    return f"{estimate.value:.3g}{star}", f"{estimate.low:.3g} .. {estimate.high:.3g}"


if __name__ == "__main__":
    sys.exit(main())
