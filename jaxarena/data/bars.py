"""Daily bars of several assets as aligned host arrays, and what a bar must satisfy.

Belongs here: the container and its checks. Does not belong here: reading files (`sources`) and
what a market does with the bars (`jaxarena.market.history`).
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxarena.core.schema import nearest

Date = str | datetime.date | np.datetime64

PRICES = ("open", "high", "low", "close")
COLUMNS = (*PRICES, "volume")


class DataError(ValueError):
    """Data that cannot be used. The message is the first problem; `problems` holds all of its kind."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True, eq=False)
class PriceHistory:
    """What every asset did in every session: `T` sessions of `A` assets, without gaps.

    Prices are in currency per share, volume in shares; a session is one trading day.

    >>> history = PriceHistory.from_columns(["2000-03-01", "2000-03-02"], ["A"], close=[[10.0], [11.0]])
    >>> history.select(start="2000-03-02").close.tolist()
    [[11.0]]
    """

    dates: np.ndarray  # [T] datetime64[D], ascending
    symbols: tuple[str, ...]  # [A]
    open: np.ndarray  # [T, A] float64
    high: np.ndarray  # [T, A] float64
    low: np.ndarray  # [T, A] float64
    close: np.ndarray  # [T, A] float64
    volume: np.ndarray  # [T, A] float64 shares

    @classmethod
    def from_columns(
        cls,
        dates: Sequence[Date] | np.ndarray,
        symbols: Sequence[str],
        close: np.typing.ArrayLike,
        **columns: np.typing.ArrayLike,
    ) -> "PriceHistory":
        """Build and validate a history from arrays; a price that is left out equals the close, volume is then 0.

        Args:
            dates: [T] ISO dates.
            symbols: [A] names.
            close: [T, A] prices.
            **columns: [T, A] open, high, low, volume.

        Raises:
            ValueError: as `validate`, and for an unknown column.
        """
        for name in columns:
            if name not in COLUMNS:
                raise ValueError(f"history: unknown column {name!r}; {nearest(name, COLUMNS)}")
        given = {"close": close, "volume": np.zeros(np.shape(close)), **columns}
        arrays = {name: np.asarray(given.get(name, close), np.float64) for name in COLUMNS}
        days = np.array([to_day(date, f"dates[{i}]") for i, date in enumerate(dates)], "datetime64[D]")
        return cls(days, tuple(symbols), **arrays).validate()

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Open, high, low, close and volume by name, each [T, A]."""
        return {name: getattr(self, name) for name in COLUMNS}

    def select(
        self, symbols: Sequence[str] | None = None, start: Date | None = None, end: Date | None = None
    ) -> "PriceHistory":
        """The sessions from `start` to `end`, both included, of `symbols` in the order given; None means all.

        Raises:
            ValueError: an unknown or repeated symbol, a range that is reversed or holds no session.
        """
        rows = in_range(self.dates, start, end, "history")
        chosen = choose(symbols, self.symbols, "history")
        assets = [self.symbols.index(symbol) for symbol in chosen]
        cut = {name: values[rows][:, assets] for name, values in self.columns.items()}
        return PriceHistory(self.dates[rows], chosen, **cut)

    def validate(self, where: str = "history") -> "PriceHistory":
        """Return this history if its arrays fit together and every bar could have been traded.

        Args:
            where: what to call the history in messages.

        Raises:
            ValueError: names the array or the session, symbol and column at fault, and the remedy.
        """
        shape = (len(self.dates), len(self.symbols))
        if 0 in shape:
            raise ValueError(f"{where}: got {shape[0]} sessions of {shape[1]} symbols; at least one of each is needed")
        choose(self.symbols, self.symbols, where)
        for name, values in self.columns.items():
            if values.shape != shape:
                raise ValueError(f"{where}: {name} has shape {values.shape}, expected [sessions, symbols] = {shape}")
        unordered = np.flatnonzero(~(np.diff(self.dates) > np.timedelta64(0, "D")))
        if unordered.size:
            before, after = self.dates[unordered[0]], self.dates[unordered[0] + 1]
            raise ValueError(f"{where}: {after} follows {before}; dates must ascend, one row per session")
        check_bars(self.columns, lambda i: f"{where}: {self.symbols[i % shape[1]]} on {self.dates[i // shape[1]]}")
        return self


def check_bars(columns: Mapping[str, np.ndarray], locate: Callable[[int], str]) -> None:
    """Raise if there is a bar that nobody can have traded.

    Prices (every column but volume) are positive, volume is not negative, all are finite, and
    `low <= min(open, close)`, `high >= max(open, close)`.

    Args:
        columns: arrays of equal shape; open, high, low, close and any more prices.
        locate: says where the bar with a flat index is, to begin the message.

    Raises:
        DataError: of every such bar the place, column, what was got, what is allowed, remedy.
    """
    problems = [
        f"{locate(int(i))}, column {name!r}: got {_got(columns[name].flat[i])}, allowed is {allowed}; "
        "correct or remove the row"
        for name, bad, allowed in _rules(columns)
        for i in np.flatnonzero(bad)
    ]
    if problems:
        raise DataError(problems)


def _got(value: float) -> str:
    return "a missing value (null or NaN)" if np.isnan(value) else f"{value:.12g}"


def _rules(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, str]]:
    """Column, where it breaks the rule, and the rule."""
    for name, values in columns.items():
        if name == "volume":
            yield name, ~((values >= 0) & np.isfinite(values)), "a finite number of shares, 0 or more"
        else:
            yield name, ~((values > 0) & np.isfinite(values)), "a finite price above 0"
    yield "low", columns["low"] > np.minimum(columns["open"], columns["close"]), "at most min(open, close)"
    yield "high", columns["high"] < np.maximum(columns["open"], columns["close"]), "at least max(open, close)"


def choose(symbols: Sequence[str] | None, known: Sequence[str], where: str) -> tuple[str, ...]:
    """The symbols asked for, all that are known if None.

    Raises:
        ValueError: none at all, an unknown one (with the nearest known) or one named twice.
    """
    if symbols is None:
        return tuple(known)
    if isinstance(symbols, str) or not symbols:
        raise ValueError(f"{where}: symbols must be a list of at least one name, got {symbols!r}")
    for i, symbol in enumerate(symbols):
        if symbol not in known:
            raise ValueError(f"{where}: unknown symbol {symbol!r}; {nearest(symbol, known)}")
        if symbol in symbols[:i]:
            raise ValueError(f"{where}: symbol {symbol!r} is named twice; name each symbol once")
    return tuple(symbols)


def in_range(dates: np.ndarray, start: Date | None, end: Date | None, where: str) -> np.ndarray:
    """Which dates lie between `start` and `end`, both included; None leaves a side open.

    Returns:
        bool, the shape of `dates`.

    Raises:
        ValueError: not ISO dates, start after end, or no date inside.
    """
    first = dates.min() if start is None else to_day(start, f"{where}: start")
    last = dates.max() if end is None else to_day(end, f"{where}: end")
    if start is not None and end is not None and first > last:
        raise ValueError(f"{where}: start {first} lies after end {last}; exchange the two")
    inside = (dates >= first) & (dates <= last)
    if not inside.any():
        asked = f"from {'the first day' if start is None else first} to {'the last day' if end is None else last}"
        covered = f"the data cover {dates.min()} to {dates.max()}"
        raise ValueError(f"{where}: no rows {asked}; {covered}, choose a range in there")
    return inside


def to_day(value: Date, where: str) -> np.datetime64:
    """A calendar day from an ISO string, a date or a NumPy date.

    >>> str(to_day("2005-02-28", "start"))
    '2005-02-28'

    Raises:
        ValueError: anything else, with `where` to begin the message.
    """
    day: np.datetime64 = np.datetime64("NaT", "D")
    if isinstance(value, np.datetime64):
        day = value.astype("datetime64[D]")
    elif isinstance(value, datetime.date):
        day = np.datetime64(value.isoformat()[:10], "D")
    elif isinstance(value, str):
        with contextlib.suppress(ValueError):
            day = np.datetime64(datetime.date.fromisoformat(value), "D")
    if np.isnat(day):
        raise ValueError(f"{where}: got {value!r}, expected an ISO date such as 2009-01-31")
    return day
