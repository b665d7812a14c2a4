"""The container: selection and the checks that need no file."""

import dataclasses
import datetime

import numpy as np
import pytest

from jaxarena.data.bars import PriceHistory, to_day


@pytest.fixture
def history():
    dates = ["2020-01-02", "2020-01-03", "2020-01-06"]
    close = np.array([[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]])
    return PriceHistory.from_columns(
        dates, ["A", "B"], close, open=close - 1, high=close + 2, low=close - 3, volume=close * 10
    )


def test_select_cuts_every_column(history):
    cut = history.select(["B", "A"], datetime.date(2020, 1, 3), np.datetime64("2020-01-03")).validate()
    assert cut.symbols == ("B", "A")
    assert cut.dates.tolist() == [datetime.date(2020, 1, 3)]
    expected = {"open": [[20, 10]], "high": [[23, 13]], "low": [[18, 8]], "close": [[21, 11]], "volume": [[210, 110]]}
    assert {name: values.tolist() for name, values in cut.columns.items()} == expected


def test_select_nothing_keeps_everything(history):
    same = history.select()
    assert same.symbols == history.symbols
    np.testing.assert_array_equal(same.dates, history.dates)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"symbols": ["C"]}, "unknown symbol 'C'; known: A, B"),
        ({"start": "2020-02-01"}, "the data cover 2020-01-02 to 2020-01-06"),
        ({"start": "2020-01-06", "end": "2020-01-02"}, "lies after end"),
    ],
)
def test_select_refuses(history, options, expected):
    with pytest.raises(ValueError, match=expected):
        history.select(**options)


def test_prices_left_out_equal_the_close():
    history = PriceHistory.from_columns(["2020-01-02"], ["A"], [[3.0]])
    assert {name: values.item() for name, values in history.columns.items()} == {
        "open": 3, "high": 3, "low": 3, "close": 3, "volume": 0
    }  # fmt: skip


def test_unknown_column_is_named():
    with pytest.raises(ValueError, match="unknown column 'hihg'; did you mean 'high'"):
        PriceHistory.from_columns(["2020-01-02"], ["A"], [[3.0]], hihg=[[4.0]])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("open", np.nan, "B on 2020-01-03, column 'open': got a missing value"),
        ("close", 0.0, "column 'close': got 0, allowed is a finite price above 0"),
        ("high", np.inf, "column 'high': got inf"),
        ("volume", -1.0, "column 'volume': got -1"),
        ("low", 20.5, "column 'low': got 20.5, allowed is at most min"),
        ("high", 20.5, "column 'high': got 20.5, allowed is at least max"),
    ],
)
def test_validate_names_the_bar(history, name, value, expected):
    getattr(history, name)[1, 1] = value
    with pytest.raises(ValueError, match=expected):
        history.validate()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"close": np.ones((3, 1))}, r"close has shape \(3, 1\), expected .* \(3, 2\)"),
        ({"dates": np.array(["2020-01-02", "2020-01-02", "2020-01-03"], "datetime64[D]")}, "dates must ascend"),
        ({"dates": np.array(["2020-01-02", "NaT", "2020-01-03"], "datetime64[D]")}, "dates must ascend"),
        ({"symbols": ("A", "A")}, "named twice"),
        ({"symbols": ()}, "at least one of each"),
    ],
)
def test_validate_refuses_arrays_that_do_not_fit(history, changes, expected):
    with pytest.raises(ValueError, match=expected):
        dataclasses.replace(history, **changes).validate()


@pytest.mark.parametrize("value", ["2020-13-01", "", "today", 20200101, None, np.datetime64("NaT")])
def test_what_is_no_day_is_refused(value):
    with pytest.raises(ValueError, match=r"start: got .* expected an ISO date"):
        to_day(value, "start")


def test_a_time_of_day_is_cut_off():
    assert to_day(datetime.datetime(2020, 1, 2, 15, 30, tzinfo=datetime.UTC), "x") == np.datetime64("2020-01-02", "D")
    assert to_day(np.datetime64("2020-01-02T15:30"), "x") == np.datetime64("2020-01-02", "D")
