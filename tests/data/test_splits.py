"""The data part of a configuration and the three periods."""

import datetime

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxarena.core.schema import decode, encode
from jaxarena.data.splits import SPLITS, DataConfig, load_split


def decoded(text):
    return decode(DataConfig, yaml.safe_load(text), "data")


def test_defaults_are_valid_and_cover_the_history_once():
    parts = [load_split(DataConfig(), split).validate() for split in SPLITS]
    dates = np.concatenate([part.dates for part in parts])
    assert len(dates) == len(np.unique(dates)) == 3270
    assert (np.diff(dates) > np.timedelta64(0, "D")).all()
    assert all(part.symbols == ("AAPL", "IBM", "MSFT") for part in parts)


def test_dates_with_and_without_quotes_mean_the_same():
    plain = decoded("{symbols: [GOOG], train: [2005-01-03, 2006-01-03]}")
    quoted = decoded("{symbols: [GOOG], train: ['2005-01-03', '2006-01-03']}")
    assert plain == quoted
    assert plain.train == ("2005-01-03", "2006-01-03")
    assert str(load_split(plain, "train").dates[-1]) == "2006-01-03"


def test_encode_is_undone_by_decode():
    config = DataConfig(symbols=None, adjust=False, missing="drop")
    assert decoded(yaml.safe_dump(encode(config))) == config


def test_options_reach_the_loader():
    config = DataConfig(symbols=("MSFT",), adjust=False)
    assert load_split(config, "test").close[-1, 0] == 27.95
    assert load_split(DataConfig(symbols=("MSFT",)), "test").close[-1, 0] != 27.95


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{train: [2008-01-01, 2007-01-01]}", "data.train: start 2008-01-01 lies after end 2007-01-01"),
        ("{train: [2000-03-01, 2009-01-01]}", "train ends on 2009-01-01 but validation starts on 2009-01-01"),
        ("{test: [2005-01-01, 2006-01-01]}", "validation ends on 2010-12-31 but test starts on 2005-01-01"),
        ("{train: [2000-03-01]}", "expected 2 entries"),
        ("{train: 2000-03-01}", "data.train: expected a list"),
        ("{train: [2000-03-01, soon]}", r"data.train\[1\]: got 'soon', expected an ISO date"),
        ("{train: [2000-03-01, 2008]}", r"data.train\[1\]: expected text, got 2008"),
        ("{sauce: us_daily}", "data: unknown key 'sauce'; did you mean 'source'"),
        ("{missing: fill}", "data.missing: got 'fill'"),
        ("us_daily", "data: expected a mapping"),
    ],
)
def test_bad_configs_are_explained(text, expected):
    with pytest.raises(ValueError, match=expected):
        decoded(text)


def test_configs_built_in_python_are_checked_when_used():
    with pytest.raises(ValueError, match="must not overlap"):
        load_split(DataConfig(validation=("2008-06-01", "2010-12-31")), "test")


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        load_split(DataConfig(), "tset")


days = st.lists(st.dates(datetime.date(2000, 1, 1), datetime.date(2000, 1, 12)), min_size=6, max_size=6)


@given(days)
def test_accepted_exactly_when_disjoint_and_in_order(dates):
    a, b, c, d, e, f = dates
    config = {"train": [a, b], "validation": [c, d], "test": [e, f]}
    if a <= b < c <= d < e <= f:
        assert decode(DataConfig, config, "data").test == (str(e), str(f))
    else:
        with pytest.raises(ValueError, match=r"lies after end|must not overlap"):
            decode(DataConfig, config, "data")


@given(days.map(sorted))
def test_sorted_days_are_refused_only_for_sharing_one(dates):
    a, b, c, d, e, f = map(str, dates)
    config = DataConfig(train=(a, b), validation=(c, d), test=(e, f))
    if b < c and d < e:
        assert config.validate() is config
    else:
        with pytest.raises(ValueError, match="must not overlap"):
            config.validate()
