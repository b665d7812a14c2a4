"""Reading files: what is accepted, what is refused and how the refusal helps."""

import datetime
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxarena.data.sources import load

HEADER = "date,symbol,open,high,low,close,volume,adj_close"
ROWS = [
    "2020-01-02,A,10,12,9,11,100,5.5",
    "2020-01-03,A,11,13,10,12,200,6",
    "2020-01-06,A,12,14,11,13,300,13",
    "2020-01-03,B,20,22,19,21,400,21",
    "2020-01-06,B,21,23,20,22,500,22",
    "2020-01-07,B,22,24,21,23,600,23",
]


@pytest.fixture
def csv(tmp_path):
    def write(rows=ROWS, header=HEADER, name="prices.csv"):
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def edited(row, old, new):
    """The rows with `old` replaced by `new` in one of them (1-based, as in the messages)."""
    assert old in ROWS[row - 1]
    return [text.replace(old, new, 1) if i == row else text for i, text in enumerate(ROWS, 1)]


def message(*arguments, **options):
    with pytest.raises(ValueError) as error:
        load(*arguments, **options)
    return str(error.value)


def test_aligns_on_the_common_range(csv):
    history = load(csv(), adjust=False).validate()
    assert history.symbols == ("A", "B")
    assert history.dates.astype(str).tolist() == ["2020-01-03", "2020-01-06"]
    np.testing.assert_array_equal(history.open, [[11, 20], [12, 21]])
    np.testing.assert_array_equal(history.high, [[13, 22], [14, 23]])
    np.testing.assert_array_equal(history.low, [[10, 19], [11, 20]])
    np.testing.assert_array_equal(history.close, [[12, 21], [13, 22]])
    np.testing.assert_array_equal(history.volume, [[200, 400], [300, 500]])
    assert history.close.dtype == history.volume.dtype == np.float64
    assert history.dates.dtype == np.dtype("datetime64[D]")


def test_adjusts_prices_and_volume_by_the_same_factor(csv):
    history = load(csv(), ["A"])
    np.testing.assert_allclose(history.close[:, 0], [5.5, 6, 13])
    np.testing.assert_allclose(history.open[:, 0], [5, 5.5, 12])
    np.testing.assert_allclose(history.high[:, 0], [6, 6.5, 14])
    np.testing.assert_allclose(history.low[:, 0], [4.5, 5, 11])
    np.testing.assert_allclose(history.volume[:, 0], [200, 400, 300])


def test_symbols_come_in_the_order_asked_for(csv):
    assert load(csv(), ["B", "A"], adjust=False).close[0].tolist() == [21, 12]


def test_column_names_are_matched_loosely(csv):
    loose = csv(header="Date,TICKER,Open,HIGH,low,Close,Volume,Adj Close")
    np.testing.assert_array_equal(load(loose).close, load(csv(name="same.csv")).close)


def test_file_without_symbol_is_one_asset_named_like_the_file(csv):
    history = load(csv(["2020-01-02,1,2,1,2,0"], "date,open,high,low,close,volume", "gold.csv"))
    assert history.symbols == ("gold",)
    assert history.volume.tolist() == [[0.0]]


def test_blank_lines_are_skipped_but_counted(csv):
    assert len(load(csv([ROWS[0], "", ROWS[1], ""])).dates) == 2
    assert "row 3 " in message(csv([ROWS[0], "", ROWS[1].replace("200", "-1")]))


def test_dates_may_carry_a_time_of_day(csv):
    assert load(csv(edited(1, "2020-01-02", "2020-01-02 00:00:00-05:00")), ["A"]).dates[0] == np.datetime64(
        "2020-01-02"
    )


@pytest.mark.parametrize("kind", [pl.Date, pl.Datetime("us"), pl.Datetime("ns", "America/New_York"), pl.String])
def test_parquet_equals_csv(csv, tmp_path, kind):
    path = csv()
    dates = pl.col("date").str.to_date()
    if kind != pl.Date:
        dates = dates.cast(pl.String) if kind == pl.String else dates.cast(pl.Datetime("us"))
    if getattr(kind, "time_zone", None):
        dates = dates.dt.replace_time_zone(kind.time_zone)
    pl.read_csv(path).with_columns(dates, pl.col("symbol").cast(pl.Categorical)).write_parquet(tmp_path / "p.parquet")
    from_csv, from_parquet = load(path), load(tmp_path / "p.parquet")
    np.testing.assert_array_equal(from_csv.dates, from_parquet.dates)
    for name, values in from_csv.columns.items():
        np.testing.assert_array_equal(values, from_parquet.columns[name])


price = st.floats(1e-3, 1e6, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(price, price, price, price, price, st.integers(0, 10**12)), min_size=1, max_size=8))
def test_any_valid_history_survives_the_round_trip_and_adjustment(tmp_path_factory, bars):
    path = tmp_path_factory.mktemp("round") / "x.parquet"
    prices = np.array([bar[:4] for bar in bars])
    first = datetime.date(2020, 1, 1)
    table = pl.DataFrame(
        {
            "date": [first + datetime.timedelta(days=i) for i in range(len(bars))],
            "open": prices[:, 0],
            "high": prices.max(1),
            "low": prices.min(1),
            "close": prices[:, 1],
            "volume": [bar[5] for bar in bars],
            "adj_close": [bar[4] for bar in bars],
        }
    )
    table.write_parquet(path)
    table.write_csv(path.with_suffix(".csv"))
    raw, text, adjusted = load(path, adjust=False), load(path.with_suffix(".csv"), adjust=False), load(path).validate()
    for name, values in raw.columns.items():
        np.testing.assert_array_equal(values[:, 0], table[name].to_numpy())
        np.testing.assert_array_equal(values, text.columns[name])
    np.testing.assert_allclose(adjusted.close[:, 0], table["adj_close"].to_numpy(), rtol=1e-12)
    np.testing.assert_allclose(adjusted.close * adjusted.volume, raw.close * raw.volume, rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "old", "new", "expected"),
    [
        (2, "2020-01-03", "03/01/2020", ["row 2, column 'date': cannot read '03/01/2020'", "ISO"]),
        (2, "2020-01-03", "2020-02-30", ["row 2, column 'date': cannot read '2020-02-30'", "ISO"]),
        (2, "2020-01-03", "", ["row 2, column 'date'", "missing"]),
        (4, ",B,", ",,", ["row 4, column 'symbol'", "missing"]),
        (5, ",20,", ",2o,", ["row 5, column 'low': cannot read '2o'", "plain number"]),
        (5, ",20,", ",,", ["row 5 (B on 2020-01-06), column 'low'", "missing value", "correct or remove"]),
        (5, ",20,", ",NaN,", ["row 5 (B on 2020-01-06), column 'low'", "missing value"]),
        (5, ",23,", ",inf,", ["row 5 (B on 2020-01-06), column 'high': got inf", "finite price above 0"]),
        (3, ",11,", ",0,", ["row 3 (A on 2020-01-06), column 'low': got 0", "above 0"]),
        (3, ",13\n", ",-13\n", ["row 3 (A on 2020-01-06), column 'adj_close': got -13", "above 0"]),
        (3, ",300,", ",-1,", ["row 3 (A on 2020-01-06), column 'volume': got -1", "0 or more"]),
        (3, ",11,", ",12.5,", ["row 3 (A on 2020-01-06), column 'low': got 12.5", "at most min(open, close)"]),
        (3, ",14,", ",12.5,", ["row 3 (A on 2020-01-06), column 'high': got 12.5", "at least max(open, close)"]),
        (3, ",13,", ",10.5,", ["row 3 (A on 2020-01-06), column 'low': got 11", "at most min(open, close)"]),
        (3, ",12,", ",15,", ["row 3 (A on 2020-01-06), column 'high': got 14", "at least max(open, close)"]),
        (3, "2020-01-06", "2020-01-03", ["row 3 (A on 2020-01-03)", "repeats 2020-01-03 (row 2)", "keep one"]),
        (3, "2020-01-06", "2020-01-01", ["row 3 (A on 2020-01-01)", "after 2020-01-03 (row 2)", "sort the file"]),
        (5, "21,23", "21,,23,1", ["row 5: 10 fields, 8 expected"]),
    ],
)
def test_bad_rows_are_named(csv, row, old, new, expected):
    ended = [text + "\n" for text in ROWS]  # so that the last field can be edited alone
    assert old in ended[row - 1]
    ended[row - 1] = ended[row - 1].replace(old, new, 1)
    path = csv([text.rstrip("\n") for text in ended])
    got = message(path)
    for part in [f"{path}: row {row}", *expected]:
        assert part in got


@pytest.mark.parametrize("adjust", [True, False])
def test_rows_outside_the_range_are_checked_too(csv, adjust):
    path = csv(edited(1, ",12,", ",1,"))
    assert "row 1" in message(path, ["A"], start="2020-01-06", adjust=adjust)
    assert load(path, ["B"]).symbols == ("B",)  # but not those of other symbols


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (HEADER.replace("open", "opne"), "unknown column 'opne'; did you mean 'open'?"),
        (HEADER.replace("volume", "open"), "both mean 'open'; remove one"),
        (HEADER.replace("symbol", "ticker").replace("adj_close", "SYMBOL"), "both mean 'symbol'"),
    ],
)
def test_bad_headers_are_named(csv, header, expected):
    path = csv(header=header)
    got = message(path)
    assert got.startswith(f"{path}: ")
    assert expected in got


def test_missing_column_is_named(csv):
    path = csv(["2020-01-02,1,2,1,2"], "date,open,high,low,close")
    assert f"{path}: column 'volume' is missing; the file has date, open, high, low, close" in message(path)


def test_missing_sessions_are_refused_or_dropped(csv):
    path = csv([*ROWS[:3], "2020-01-07,A,13,14,12,13,1,13", ROWS[3], ROWS[5]])
    got = message(path)
    assert f"{path}: row 3 (A on 2020-01-06): missing sessions: B has no row for 2020-01-06" in got
    assert "missing='drop'" in got
    dropped = load(path, missing="drop", adjust=False)
    assert dropped.dates.astype(str).tolist() == ["2020-01-03", "2020-01-07"]
    np.testing.assert_array_equal(dropped.close, [[12, 21], [13, 23]])
    assert len(load(path, end="2020-01-05").dates) == 1  # a gap outside the range is none


def test_symbols_that_never_trade_together_are_refused(csv):
    path = csv([ROWS[0], ROWS[3], ROWS[4]])
    assert "no common sessions: B starts on 2020-01-03, A ends on 2020-01-02" in message(path)


def test_no_session_left_after_dropping_is_refused(csv):
    path = csv([ROWS[0], ROWS[2], ROWS[3], ROWS[5].replace("2020-01-07", "2020-01-05")])
    assert "is shared by all symbols" in message(path, missing="drop")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"symbols": ["AA"]}, "unknown symbol 'AA'; did you mean 'A'? known: A, B"),
        ({"symbols": ["A", "A"]}, "named twice"),
        ({"symbols": []}, "at least one"),
        ({"symbols": "A"}, "must be a list"),
        ({"start": "2021-01-01"}, "no rows from 2021-01-01 to the last day; the data cover 2020-01-02 to 2020-01-06"),
        ({"end": "2019-12-31"}, "no rows from the first day to 2019-12-31"),
        ({"start": "2020-01-04", "end": "2020-01-05"}, "no rows from 2020-01-04 to 2020-01-05"),
        ({"start": "2020-01-06", "end": "2020-01-03"}, "start 2020-01-06 lies after end 2020-01-03"),
        ({"start": "January"}, "start: got 'January', expected an ISO date"),
    ],
)
def test_bad_selections_are_explained(csv, options, expected):
    path = csv()
    got = message(path, **options)
    assert got.startswith(f"{path}: ")
    assert expected in got


def test_unknown_choice_for_missing(csv):
    assert "allowed are 'error' and 'drop'" in message(csv(), missing="fill")


def test_empty_files(csv, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert f"{empty}: the file is empty" in message(empty)
    assert "a header but no rows" in message(csv([]))


def test_missing_file_hints_at_the_likeliest(csv):
    path = csv()
    wrong = path.with_name("price.csv")
    assert re.search(rf"^{re.escape(str(wrong))}: no such file; did you mean '{re.escape(str(path))}'", message(wrong))
    assert "did you mean 'us_daily'?" in message("us_dayly")


def test_other_formats_are_refused(tmp_path):
    (tmp_path / "x.xlsx").touch()
    assert "cannot read .xlsx; save as .csv or .parquet" in message(tmp_path / "x.xlsx")
    (tmp_path / "x.parquet").write_text("no parquet")
    assert "not readable as .parquet" in message(tmp_path / "x.parquet")


@pytest.mark.parametrize(("column", "values"), [("open", [True]), ("date", [20200102])])
def test_parquet_of_wrong_type_is_refused(tmp_path, column, values):
    frame = {"date": ["2020-01-02"], "open": [1.0], "high": [2.0], "low": [1.0], "close": [2.0], "volume": [1]}
    pl.DataFrame({**frame, column: values}).write_parquet(tmp_path / "x.parquet")
    assert f"column {column!r} holds" in message(tmp_path / "x.parquet")
