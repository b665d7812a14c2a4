"""Long-format tables (one row per session and symbol) from CSV and Parquet to typed columns.

Belongs here: everything that needs polars; `sources` imports this module when a file is read.
Does not belong here: what the numbers mean.
"""

import csv
import re
from pathlib import Path

import numpy as np
import polars as pl

from jaxarena.core.schema import nearest
from jaxarena.data.bars import COLUMNS, DataError

#: File columns and whether a file can do without them.
FILE_COLUMNS = {"date": True, "symbol": False, **dict.fromkeys(COLUMNS, True), "adj_close": False}

_ALIASES = {"ticker": "symbol"}
_REPEATED = re.compile(r"_duplicated_\d+$")  # what polars appends to a repeated header


def read_table(path: Path, label: str) -> pl.DataFrame:
    """Read a file; rename its columns to those of `FILE_COLUMNS` and number its data rows from 1 in `row`.

    Dates and symbols come out typed, numbers as the file holds them (`numbers` types them). A file
    without a symbol column is one asset, named like the file.

    Raises:
        ValueError: names `label` and what is wrong: unreadable or empty file, unknown, missing or
            repeated column, a date that is not ISO, a row without symbol.
    """
    try:
        table = pl.read_parquet(path) if path.suffix.lower() == ".parquet" else pl.read_csv(path, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise ValueError(f"{label}: the file is empty; it needs a header and one row per session and symbol") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        place = _ragged_row(path) if path.suffix.lower() == ".csv" else ""
        raise ValueError(f"{label}: {place}not readable as {path.suffix}: {reason}; correct or convert it") from error
    table = table.rename(_column_names(table.columns, label)).with_row_index("row", offset=1)
    table = table.filter(~pl.all_horizontal(pl.exclude("row").is_null()))  # blank lines count as rows, and that is all
    if table.is_empty():
        raise ValueError(f"{label}: the file has a header but no rows; it needs one row per session and symbol")
    if "symbol" not in table.columns:
        table = table.with_columns(symbol=pl.lit(path.stem))
    return table.with_columns(date=_dates(table, label), symbol=_symbols(table, label))


def numbers(table: pl.DataFrame, name: str, label: str) -> np.ndarray:
    """A column as float64 [rows]; nulls become NaN.

    Raises:
        ValueError: names `label`, row and column of an entry that is not a number.
    """
    column = table[name]
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
        parsed = column.cast(pl.Float64, strict=False)
        _refuse_unparsed(table, column, parsed, label, "write a plain number, such as 1234.5")
    elif column.dtype.is_numeric() or column.dtype == pl.Null:
        parsed = column.cast(pl.Float64)
    else:
        raise ValueError(f"{label}: column {name!r} holds {column.dtype}; store it as numbers")
    return parsed.fill_null(float("nan")).to_numpy()


def _ragged_row(path: Path) -> str:
    """Where a CSV file first has more fields than its header, empty if nowhere."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file)
        width = len(next(lines, []))
        return next(
            (f"row {i}: {len(f)} fields, {width} expected, " for i, f in enumerate(lines, 1) if len(f) > width), ""
        )


def _column_names(found: list[str], label: str) -> dict[str, str]:
    """From the names in the file to ours, whatever their case, spaces and punctuation."""
    by_key = {_key(name): name for name in FILE_COLUMNS} | _ALIASES
    renamed: dict[str, str] = {}
    for column in found:
        name = by_key.get(_key(_REPEATED.sub("", column)))
        if name is None:
            raise ValueError(
                f"{label}: unknown column {column!r}; {nearest(column, FILE_COLUMNS)}; rename or remove it"
            )
        if name in renamed.values():
            raise ValueError(f"{label}: columns {list(renamed)} and {column!r} both mean {name!r}; remove one")
        renamed[column] = name
    for name, required in FILE_COLUMNS.items():
        if required and name not in renamed.values():
            raise ValueError(f"{label}: column {name!r} is missing; the file has {', '.join(found)}; add or rename one")
    return renamed


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _dates(table: pl.DataFrame, label: str) -> pl.Series:
    column = table["date"]
    if isinstance(column.dtype, pl.Datetime):
        parsed = column.dt.date()
    elif column.dtype == pl.String:
        day = column.str.strip_chars().str.extract(r"^(\d{4}-\d{2}-\d{2})(?:[T ].*)?$")
        parsed = day.str.to_date("%Y-%m-%d", strict=False)
        _refuse_unparsed(table, column, parsed, label, "write ISO dates, such as 2009-01-31")
    elif column.dtype in (pl.Date, pl.Null):
        parsed = column.cast(pl.Date)
    else:
        raise ValueError(f"{label}: column 'date' holds {column.dtype}; store dates, or text such as 2009-01-31")
    _refuse_null(table, parsed, label, "give the row its date")
    return parsed


def _symbols(table: pl.DataFrame, label: str) -> pl.Series:
    symbols = table["symbol"].cast(pl.String).str.strip_chars().replace("", None)
    _refuse_null(table, symbols, label, "give the row its symbol")
    return symbols


def _refuse_unparsed(table: pl.DataFrame, text: pl.Series, parsed: pl.Series, label: str, remedy: str) -> None:
    bad = (parsed.is_null() & text.is_not_null()).arg_true()
    if len(bad):
        place = f"column {text.name!r}: cannot read"
        raise DataError([f"{label}: row {table['row'][i]}, {place} {text[i]!r}; {remedy}" for i in bad])


def _refuse_null(table: pl.DataFrame, column: pl.Series, label: str, remedy: str) -> None:
    bad = column.is_null().arg_true()
    if len(bad):
        place = f"column {column.name!r}: the value is missing"
        raise DataError([f"{label}: row {table['row'][i]}, {place}; {remedy}" for i in bad])
