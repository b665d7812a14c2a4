"""From a named or user-made file to an aligned, validated `PriceHistory`.

Belongs here: finding the file, checking its rows, adjusting prices for corporate actions and
aligning symbols. Does not belong here: parsing (`reader`) and splitting (`splits`).
"""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxarena.data.bars import COLUMNS, PRICES, DataError, Date, PriceHistory, check_bars, choose, in_range

if TYPE_CHECKING:
    import polars as pl

Missing = Literal["error", "drop"]

SUFFIXES = (".csv", ".parquet")

#: Histories that come with the package.
VENDORED = {"us_daily": Path(__file__).with_name("us_daily.parquet")}


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a file in file order, `R` of them."""

    label: str
    row: np.ndarray  # [R] int64, 1-based number of the data row in the file
    date: np.ndarray  # [R] datetime64[D]
    symbol: np.ndarray  # [R] str
    columns: dict[str, np.ndarray]  # [R] float64 each

    def take(self, which: np.ndarray) -> "_Rows":
        columns = {name: values[which] for name, values in self.columns.items()}
        return _Rows(self.label, self.row[which], self.date[which], self.symbol[which], columns)

    def locate(self, i: int) -> str:
        return f"{self.label}: row {self.row[i]} ({self.symbol[i]} on {self.date[i]})"


def load(
    source: str | os.PathLike[str],
    symbols: Sequence[str] | None = None,
    start: Date | None = None,
    end: Date | None = None,
    *,
    adjust: bool = True,
    missing: Missing = "error",
) -> PriceHistory:
    """The daily history of `symbols`, from the first to the last session in which all of them trade.

    A file is a long table with the columns date, symbol, open, high, low, close, volume and
    optionally adj_close, in any order, letter case ignored; without symbol it is one asset, named
    like the file. All rows of the chosen symbols are checked, inside the date range or not.

    With `adjust` prices are total-return prices: `price * f` and `volume / f`, where
    `f = adj_close / close`, so that returns carry no jump from splits or dividends and dollar volume
    is kept. Factors are relative to the last day that the file's source knew, so the level of an
    adjusted price, though no return, tells of later events. A file without adj_close is taken as it is.

    Args:
        source: `us_daily`, or the path of a .csv or .parquet file.
        symbols: which, in which order; None takes all, in the order of the file.
        start: first day, included; None is the first there is.
        end: last day, included; None is the last there is.
        adjust: multiply out splits and dividends.
        missing: what to do when a session, traded by some, lacks for another symbol: `error`, or
            `drop` to keep only the sessions that all share.

    Raises:
        ValueError: names file, row, column, what was got, what is allowed and the remedy.

    >>> load("us_daily", ["MSFT"], "2013-02-28", "2013-03-01", adjust=False).close.tolist()
    [[27.8], [27.95]]
    """
    if missing not in ("error", "drop"):
        raise ValueError(f"missing: got {missing!r}; allowed are 'error' and 'drop'")
    label = os.fspath(source)
    series = _read_series(label, symbols, adjust)
    names = tuple(str(rows.symbol[0]) for rows in series)
    series = [rows.take(in_range(rows.date, start, end, f"{label}: {rows.symbol[0]}")) for rows in series]
    dates, series = _align(series, missing)
    columns = {name: np.stack([rows.columns[name] for rows in series], axis=1) for name in COLUMNS}
    return PriceHistory(dates, names, **columns)


def load_each(source: str | os.PathLike[str], symbols: Sequence[str] | None = None) -> list[PriceHistory]:
    """The whole history of each symbol on its own, adjusted: every session in which it traded.

    Raises:
        ValueError: as `load`, but that symbols may have different sessions.

    >>> [history.symbols for history in load_each("us_daily", ["MSFT", "IBM"])]
    [('MSFT',), ('IBM',)]
    """
    return [
        PriceHistory(
            rows.date, (str(rows.symbol[0]),), **{name: column[:, None] for name, column in _traded(rows).items()}
        )
        for rows in _read_series(os.fspath(source), symbols, adjust=True)
    ]


def find_problems(source: str | os.PathLike[str], symbols: Sequence[str] | None = None) -> list[str]:
    """Everything that keeps `load` from using a source, each with file, row, column and remedy; empty if nothing does.

    What cannot be read hides what comes after it: a column without numbers is not checked for sense, and sessions are
    held against each other only where every row is good.

    Raises:
        ValueError: no such file.

    >>> find_problems("us_daily")
    []
    """
    label = os.fspath(source)
    path = path_of(label)
    found: list[str] = []
    with _collecting(found):
        for part in _tables(path, label, symbols):
            with _collecting(found):
                _check_columns(part, label, found)
    if not found:
        with _collecting(found):
            load(source, symbols)
    return found


@contextlib.contextmanager
def _collecting(found: list[str]) -> Iterator[None]:
    """Note what is wrong instead of raising it."""
    try:
        yield
    except DataError as error:
        found.extend(error.problems)
    except ValueError as error:
        found.append(str(error))


def _check_columns(part: "pl.DataFrame", label: str, found: list[str]) -> None:
    """Note what is wrong with the rows of one symbol: entries, order and bars."""
    from jaxarena.data.reader import numbers  # noqa: PLC0415 - polars is imported when a file is read

    before = len(found)
    for name in _numeric(part):
        with _collecting(found):
            numbers(part, name, label)
    if len(found) > before:
        return
    rows = _rows(part, label)
    for check in (_check_order, _check_rows):
        with _collecting(found):
            check(rows)


def path_of(label: str) -> Path:
    """The file behind a source.

    Raises:
        ValueError: there is none, or it is of an unknown kind.
    """
    path = VENDORED.get(label, Path(label).expanduser())
    if not path.is_file():
        beside = [p for p in path.parent.glob("*") if p.suffix.lower() in SUFFIXES] if path.parent.is_dir() else []
        close = difflib.get_close_matches(label, [*VENDORED, *map(str, beside)], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(sorted(VENDORED))
        raise ValueError(
            f"{label}: no such file; {hint}a source is one of {known} or a path to a file {' or '.join(SUFFIXES)},"
            f" relative paths start at {Path.cwd()}"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{label}: cannot read {path.suffix or 'a file without suffix'}; save as {' or '.join(SUFFIXES)}"
        )
    return path


def _read_series(label: str, symbols: Sequence[str] | None, adjust: bool) -> list[_Rows]:
    """The checked rows of each chosen symbol, adjusted where asked for."""
    series = [_rows(part, label) for part in _tables(path_of(label), label, symbols)]
    for rows in series:
        _check_order(rows)
        _check_rows(rows)
    return [_adjusted(rows) for rows in series] if adjust else series


def _traded(rows: _Rows) -> dict[str, np.ndarray]:
    """The columns of a bar, without adj_close."""
    return {name: rows.columns[name] for name in COLUMNS}


def _tables(path: Path, label: str, symbols: Sequence[str] | None) -> "list[pl.DataFrame]":
    """The rows of each chosen symbol, as the file holds them."""
    from jaxarena.data.reader import read_table  # noqa: PLC0415 - polars is imported when a file is read

    table = read_table(path, label)
    chosen = choose(symbols, table["symbol"].unique(maintain_order=True).to_list(), label)
    return [table.filter(table["symbol"] == symbol) for symbol in chosen]


def _rows(part: "pl.DataFrame", label: str) -> _Rows:
    """The rows of one symbol as arrays."""
    from jaxarena.data.reader import numbers  # noqa: PLC0415 - polars is imported when a file is read

    columns = {name: numbers(part, name, label) for name in _numeric(part)}
    date = part["date"].to_numpy().astype("datetime64[D]")
    return _Rows(label, part["row"].to_numpy(), date, part["symbol"].to_numpy(), columns)


def _numeric(part: "pl.DataFrame") -> list[str]:
    return [name for name in (*COLUMNS, "adj_close") if name in part.columns]


def _check_rows(rows: _Rows) -> None:
    check_bars(rows.columns, rows.locate)


def _check_order(rows: _Rows) -> None:
    """Raise unless the dates of one symbol ascend without repeats."""
    wrong = np.flatnonzero(np.diff(rows.date) <= np.timedelta64(0, "D")) + 1
    if wrong.size:
        raise DataError([_misplaced(rows, int(i)) for i in wrong])


def _misplaced(rows: _Rows, i: int) -> str:
    """What is wrong with a date that does not come after the one before."""
    before, place = f"{rows.date[i - 1]} (row {rows.row[i - 1]})", f"{rows.locate(i)}, column 'date'"
    if rows.date[i] == rows.date[i - 1]:
        return f"{place}: repeats {before}; keep one row per symbol and session (bars are daily)"
    return f"{place}: comes after {before}; dates must ascend, sort the file by symbol and date"


def _adjusted(rows: _Rows) -> _Rows:
    """Prices times `adj_close / close`, volume divided by it."""
    if "adj_close" not in rows.columns:
        return rows
    factor = rows.columns["adj_close"] / rows.columns["close"]
    columns = {name: rows.columns[name] * factor for name in PRICES} | {"volume": rows.columns["volume"] / factor}
    return dataclasses.replace(rows, columns=columns)


def _align(series: list[_Rows], missing: Missing) -> tuple[np.ndarray, list[_Rows]]:
    """Cut all series to the sessions between the latest first and the earliest last one; those must be the same."""
    label = series[0].label
    first = max(series, key=lambda rows: rows.date[0])
    last = min(series, key=lambda rows: rows.date[-1])
    low, high = first.date[0], last.date[-1]
    if low > high:
        raise ValueError(
            f"{label}: no common sessions: {first.symbol[0]} starts on {low}, {last.symbol[0]} ends on {high};"
            " choose symbols or dates that overlap"
        )
    series = [rows.take((rows.date >= low) & (rows.date <= high)) for rows in series]
    sessions = np.unique(np.concatenate([rows.date for rows in series]))
    common = np.logical_and.reduce([np.isin(sessions, rows.date) for rows in series])
    if not common.all() and missing == "error":
        raise ValueError(_missing_message(series, sessions[~common]))
    if not common.any():
        raise ValueError(f"{label}: no session between {low} and {high} is shared by all symbols; choose other symbols")
    sessions = sessions[common]
    return sessions, [rows.take(np.isin(rows.date, sessions)) for rows in series]


def _missing_message(series: list[_Rows], gaps: np.ndarray) -> str:
    """Where the first missing session is, and what to do about it."""
    date = gaps[0]
    without = next(rows for rows in series if date not in rows.date)
    owner = next(rows for rows in series if date in rows.date)
    place = owner.locate(int(np.searchsorted(owner.date, date)))
    return (
        f"{place}: missing sessions: {without.symbol[0]} has no row for {date}, {len(gaps)} such dates in all;"
        " add the rows, or set missing='drop' to keep only the sessions that all symbols share"
    )
