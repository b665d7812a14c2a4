"""The vendored history: the file is the documented one and its corporate actions are understood."""

import hashlib
import re
import time

import numpy as np
import polars as pl
import pytest

from jaxarena.data.sources import VENDORED, load

FILE = VENDORED["us_daily"]
ALL = ["AAPL", "FB", "GOOG", "IBM", "MSFT"]


def test_checksum_is_the_documented_one():
    text = FILE.with_suffix(".md").read_text()
    digest, size = re.search(r"\*\*sha256:\*\* `(\w{64})` \((\d+) bytes", text).groups()
    content = FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) == int(size) < 350_000


def test_table_of_symbols_is_right():
    rows = re.findall(r"^\| (\w+) \| (\d+) \| ([\d-]+) \| ([\d-]+) \|", FILE.with_suffix(".md").read_text(), re.M)
    found = []
    for symbol in ALL:
        dates = load("us_daily", [symbol]).dates
        found.append((symbol, str(len(dates)), str(dates[0]), str(dates[-1])))
    assert rows == found


def test_loading_twice_stays_fast():
    load("us_daily", ["AAPL"])  # imports polars
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        load("us_daily", ["AAPL", "IBM", "MSFT"])
        best = min(best, time.perf_counter() - start)
    assert best < 0.3


def test_all_symbols_share_the_shortest_range():
    history = load("us_daily").validate()
    assert history.symbols == tuple(ALL)
    assert str(history.dates[0]) == "2012-05-18"
    assert history.close.shape == (196, 5)


def test_adjusted_series_is_raw_times_the_factor():
    raw, adjusted = load("us_daily", ["MSFT"], adjust=False), load("us_daily", ["MSFT"]).validate()
    table = pl.read_parquet(FILE).filter(pl.col("symbol") == "MSFT")
    adj_close = table["adj_close"].to_numpy()
    np.testing.assert_array_equal(raw.close[:, 0], table["close"].to_numpy())
    np.testing.assert_allclose(adjusted.close[:, 0], adj_close, rtol=1e-14)
    np.testing.assert_allclose(adjusted.high / adjusted.close, raw.high / raw.close, rtol=1e-14)
    np.testing.assert_allclose(adjusted.close * adjusted.volume, raw.close * raw.volume, rtol=1e-14)


@pytest.mark.parametrize(
    ("symbol", "date", "raw_jump"),
    [
        ("AAPL", "2000-06-21", 2),
        ("AAPL", "2005-02-28", 2),
        ("MSFT", "2003-02-18", 2),
        ("MSFT", "2004-11-15", 30.12 / 27.12),
    ],
)
def test_corporate_actions_leave_no_jump(symbol, date, raw_jump):
    raw, adjusted = load("us_daily", [symbol], adjust=False), load("us_daily", [symbol])
    t = int(np.searchsorted(raw.dates, np.datetime64(date)))
    raw_return = raw.close[t, 0] / raw.close[t - 1, 0]
    adjusted_return = adjusted.close[t, 0] / adjusted.close[t - 1, 0]
    assert adjusted_return / raw_return == pytest.approx(raw_jump, rel=5e-3)
    assert abs(np.log(adjusted_return)) < 0.1


@pytest.mark.bridge
def test_it_can_be_made_again():
    pytest.importorskip("bokeh_sampledata")
    from jaxarena.data.vendor_us_daily import convert, installed_source

    assert convert(installed_source()).equals(pl.read_parquet(FILE))


def test_it_is_made_from_nothing_else(tmp_path):
    from jaxarena.data.vendor_us_daily import convert

    (tmp_path / "stocks.csv.gz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"sha256 is .*, expected"):
        convert(tmp_path / "stocks.csv.gz")
