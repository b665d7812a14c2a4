"""Look at a price history, or check a file of bars before it is used.

Belongs here: the command line. Does not belong here: reading and checking (`sources`).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxarena.command import BAD_INPUT, EXIT_CODES, OK, Parser, guard, print_table, say

if TYPE_CHECKING:
    from jaxarena.data.bars import PriceHistory

_EPILOG = f"""\
examples:
  jaxarena data show                                the history that comes with the package
  jaxarena data show us_daily --symbols AAPL IBM
  jaxarena data show my_bars.csv --test 2021-01-01 2022-12-31
  jaxarena data check my_bars.csv                   everything that is wrong, by row and column

A file has the columns date, symbol, open, high, low, close, volume and, optionally, adj_close; one row per symbol and
session. Use it in a run with data.source=my_bars.csv. `check` ends with 2 when it finds a problem.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.what == "check":
        return guard(lambda: check(options.source, options.symbols, options.most))
    return guard(lambda: show(options.source, options.symbols, options.train, options.validation, options.test))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="jaxarena data", description="Look at a price history, or check a file.", epilog=_EPILOG)
    what = made.add_subparsers(dest="what", required=True, metavar="show | check")
    shown = what.add_parser("show", help="symbols, sessions, prices and how many bars each period has")
    shown.add_argument("source", nargs="?", default="us_daily", metavar="SOURCE", help="us_daily (default) or a file")
    for split in ("train", "validation", "test"):
        shown.add_argument(f"--{split}", nargs=2, metavar=("FROM", "TO"), help="a period, as in data." + split)
    checked = what.add_parser("check", help="all that is wrong with a file, by row and column")
    checked.add_argument("source", metavar="FILE", help="a .csv or .parquet file")
    checked.add_argument("--most", type=int, default=50, metavar="N", help="problems to print (default 50)")
    for one in (shown, checked):
        one.add_argument("--symbols", nargs="+", metavar="NAME", help="only these (default: all)")
    return made


def show(
    source: str,
    symbols: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
    validation: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
) -> None:
    """Print what a source holds of each symbol; periods that are not given are the default ones.

    Raises:
        ValueError: the source cannot be used, or the periods overlap.
    """
    from jaxarena.data.sources import load_each  # noqa: PLC0415 - after --help, for speed
    from jaxarena.data.splits import SPLITS, DataConfig  # noqa: PLC0415

    given = {"train": train, "validation": validation, "test": test}
    periods = DataConfig(**{name: tuple(days) for name, days in given.items() if days}).validate()  # type: ignore[arg-type]
    spans = [getattr(periods, split) for split in SPLITS]
    rows = [_row(history, spans) for history in load_each(source, symbols)]
    print_table(("symbol", "first", "last", "bars", *SPLITS, "low", "high", "mean volume"), rows, source)
    say("\n".join(f"{split}: {start} to {end}" for split, (start, end) in zip(SPLITS, spans, strict=True)))
    say("prices are adjusted for splits and dividends where the source has adj_close")


def check(source: str, symbols: Sequence[str] | None = None, most: int = 50) -> int:
    """Print all problems of a file.

    Returns:
        the exit code: 2 where there is a problem.

    Raises:
        ValueError: no such file.
    """
    from jaxarena.data.sources import find_problems  # noqa: PLC0415 - after --help, for speed

    problems = find_problems(source, symbols)
    if not problems:
        print(f"{source}: no problems")
        return OK
    print("\n".join(problems[:most]))
    left = f", of which the first {most} are shown; see more with --most" if len(problems) > most else ""
    say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}{left}")
    return BAD_INPUT


def _row(history: "PriceHistory", spans: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """What one symbol has: days, bars in all and in each period, prices and volume."""
    import numpy as np  # noqa: PLC0415 - after --help, for speed

    days = history.dates
    inside = [int(((days >= np.datetime64(start)) & (days <= np.datetime64(end))).sum()) for start, end in spans]
    counts = map(str, (len(days), *inside))
    prices = f"{history.low.min():,.2f}", f"{history.high.max():,.2f}"
    return history.symbols[0], str(days[0]), str(days[-1]), *counts, *prices, f"{history.volume.mean():,.0f}"


if __name__ == "__main__":
    sys.exit(main())
