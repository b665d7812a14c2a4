"""Which history an experiment uses and how it is cut into train, validation and test.

Belongs here: the `data:` part of a configuration. Does not belong here: reading (`sources`).
"""

import dataclasses
import datetime
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from jaxarena.core.schema import decode_fields, nearest
from jaxarena.data.bars import PriceHistory, to_day
from jaxarena.data.sources import Missing, load

#: In the order of time.
SPLITS = ("train", "validation", "test")

Range = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The history to replay and its three periods, so that nothing is judged on days it was trained or chosen on.

    A range is a pair of ISO dates, both included. The three follow each other in time and share no day.
    """

    source: str = "us_daily"  # name of a vendored history or path of a .csv or .parquet file
    symbols: tuple[str, ...] | None = ("AAPL", "IBM", "MSFT")  # None: all in the file
    adjust: bool = True  # multiply out splits and dividends
    missing: Missing = "error"  # or drop: keep the sessions that all symbols share
    train: Range = ("2000-03-01", "2008-12-31")
    validation: Range = ("2009-01-01", "2010-12-31")
    test: Range = ("2011-01-01", "2013-03-01")

    @classmethod
    def decode(cls, value: Any, where: str) -> "DataConfig":
        """Build from plain data; dates may be text or dates, as YAML gives them.

        Raises:
            ValueError: unknown keys, wrong types, and as `validate`.
        """
        if isinstance(value, Mapping):
            value = {key: _as_text(item) if key in SPLITS else item for key, item in value.items()}
        config: DataConfig = decode_fields(cls, value, where)
        return config.validate(where)

    def validate(self, where: str = "data") -> "DataConfig":
        """Return this config if its ranges are dates in the right order.

        Args:
            where: dotted path of the config, for messages.

        Raises:
            ValueError: names the ranges that are no dates, reversed, overlapping or out of order.
        """
        days = {}
        for name in SPLITS:
            start, end = (to_day(day, f"{where}.{name}[{i}]") for i, day in enumerate(getattr(self, name)))
            if start > end:
                raise ValueError(f"{where}.{name}: start {start} lies after end {end}; exchange the two")
            days[name] = start, end
        for earlier, later in pairwise(SPLITS):
            end, start = days[earlier][1], days[later][0]
            if end >= start:
                raise ValueError(
                    f"{where}: {earlier} ends on {end} but {later} starts on {start}; the splits must not overlap and"
                    f" come in the order {', '.join(SPLITS)}: end {earlier} before {start} or start {later} after {end}"
                )
        return self


def load_split(config: DataConfig, split: str) -> PriceHistory:
    """The sessions of one period: `train`, `validation` or `test`.

    Raises:
        ValueError: an unknown split, and as `DataConfig.validate` and `load`.

    >>> load_split(DataConfig(), "test").close.shape
    (543, 3)
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    start, end = getattr(config.validate(), split)
    return load(config.source, config.symbols, start, end, adjust=config.adjust, missing=config.missing)


def _as_text(value: Any) -> Any:
    """Dates inside a list as ISO text, anything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    return [day.isoformat()[:10] if isinstance(day, datetime.date) else day for day in value]
