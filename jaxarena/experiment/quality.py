"""How good a market is that makes its own prices, and how its prices behave: NumPy float64 on finished records.

Belongs here: numbers of one asset's tape (quality, who pays whom) and the stylised facts of its returns. Does not
belong here: how tapes are collected or drawn (`plots`), numbers of one account's equity (`metrics`).

Shapes: `M` markets, `T` steps, `N` investors, `R` roles, `L` lags. Every number is computed in each market and then
averaged over the markets in which it has a meaning; intervals are percentiles of a bootstrap over markets, made as
`bootstrap` says. Functions raise ValueError for shapes that do not fit each other.
A price, value or quote that is not finite or not positive is missing, and so is any other entry that is not finite:
its step is left out, and a return is missing where either of its prices is. What has no meaning in any market is
None with a reason (nan in arrays).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxarena.experiment.files import plain
from jaxarena.experiment.metrics import Estimate, _average, _estimate, _ratio, _resample_clusters

BPS = 1e4
HORIZONS = (1, 5, 20)  # steps of the returns whose tails are compared
_MIN_PAIRS = 10  # a lag with fewer pairs of returns has no autocorrelation
_MIN_DECAY_LAGS = 5  # points of a power-law fit
_NO_RETURNS = "no market has enough returns that vary"
_ONE_MARKET = "an interval needs several markets"


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: markets are drawn with replacement, and the percentiles of their averages taken."""

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0  # equal seeds give equal intervals


DEFAULT = Bootstrap()


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Several numbers of one kind with their intervals; nan is what could not be computed, and `reason` says why."""

    value: np.ndarray  # [...]
    low: np.ndarray  # [...]; nan where there is no interval
    high: np.ndarray  # [...]; nan where there is no interval
    reason: str = ""  # of the first entry that lacks its value or interval

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `value`, `low`, `high` (nested lists, None for nan) and `reason` (may be empty)."""
        return plain(vars(self))


@dataclasses.dataclass(frozen=True)
class Tape:
    """What one asset's markets wrote down at the end of every step."""

    price: np.ndarray  # [M, T] currency per lot, of the auction
    value: np.ndarray  # [M, T] currency per lot, the hidden value; nan where there is none
    best_bid: np.ndarray  # [M, T] currency per lot; 0 where nobody bids
    best_ask: np.ndarray  # [M, T] currency per lot; 0 where nobody offers
    bid_lots: np.ndarray  # [M, T] lots waiting to buy
    ask_lots: np.ndarray  # [M, T] lots waiting to sell
    volume: np.ndarray  # [M, T] lots traded
    signed_flow: np.ndarray  # [M, T] lots, aggressive buying minus aggressive selling


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Who held what before and after trade, and what it is worth to its holder."""

    start_lots: np.ndarray  # [M, N] lots
    end_lots: np.ndarray  # [M, N] lots; a market's total is that of the start
    private_value: np.ndarray  # [M, N] currency per lot
    capacity_lots: np.ndarray  # [N] or [M, N] lots, the most an investor can use


@dataclasses.dataclass(frozen=True)
class MarketQuality:
    """The numbers that judge a market, by name; units are in the names."""

    numbers: Mapping[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, name to `Estimate.as_dict()`."""
        return plain(self.numbers)


@dataclasses.dataclass(frozen=True)
class StylisedFacts:
    """What returns of financial assets have in common, measured; `stylised_facts` says how."""

    lags: np.ndarray  # [L] steps, 1 to L
    excess_kurtosis: Estimate  # 0 for a normal law; heavy tails are positive
    autocorrelation: Estimates  # [L] of returns; absent in liquid markets
    absolute_autocorrelation: Estimates  # [L] of |returns|; positive and slow to decay where volatility clusters
    decay_exponent: Estimate  # of lag ** -exponent fitted to the latter; 0.2 to 0.4 in Cont (2001)
    aggregated_kurtosis: Mapping[int, Estimate]  # by horizon in steps; falls toward 0 as the horizon grows
    volume_volatility: Estimate  # correlation of |returns| and volume; positive

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, by field."""
        return plain(vars(self))


def pricing_error(price: np.ndarray, value: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """How far prices are from the hidden value, `1e4 * sqrt(mean_t (log p - log v)^2)` in bps: price discovery.

    It does not say whether the distance is noise or a lag behind the value.

    Args:
        price: [M, T] currency.
        value: [M, T] currency, what the asset is worth at that step.
    """
    price, value = _matrices(price=price, value=value)
    distance = np.log(_positive(price)) - np.log(_positive(value))
    return _over_markets(BPS * np.sqrt(_mean(distance**2)), "no step has both a price and a value", bootstrap)


def quoted_spread(best_bid: np.ndarray, best_ask: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """Cost of an immediate round trip, `1e4 * mean_t (ask - bid) / middle` in bps, over steps that have both quotes.

    One-sided steps are left out, so a market that often lacks a side can look cheap. Crossed quotes count negative.

    Args:
        best_bid: [M, T] currency; 0 is none.
        best_ask: [M, T] currency; 0 is none.
    """
    best_bid, best_ask = _matrices(best_bid=best_bid, best_ask=best_ask)
    bid, ask = _positive(best_bid), _positive(best_ask)
    return _over_markets(_mean(2.0 * BPS * (ask - bid) / (ask + bid)), "no step has both a bid and an ask", bootstrap)


def depth(bid_lots: np.ndarray, ask_lots: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """Lots that wait on one side of the market, `mean_t (bid_lots + ask_lots) / 2`; an empty side counts as 0.

    Args:
        bid_lots: [M, T] lots.
        ask_lots: [M, T] lots.
    """
    bid_lots, ask_lots = _matrices(bid_lots=bid_lots, ask_lots=ask_lots)
    return _over_markets(_mean((bid_lots + ask_lots) / 2.0), "no step has its depth recorded", bootstrap)


def kyle_lambda(price: np.ndarray, signed_flow: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """Price impact of order flow in bps per lot: the slope of `1e4 * log(p[t] / p[t-1]) = a + lambda * flow[t]`.

    Least squares in each market, averaged; a market needs three steps and flow that varies. It leaves out that
    impact may be concave in flow, fade later, or be news that moved price and flow at once.

    Args:
        price: [M, T] currency.
        signed_flow: [M, T] lots, aggressive buying minus selling in the step that made the price; the first is unused.

    Source: Kyle, A. S. (1985). Continuous Auctions and Insider Trading. Econometrica 53(6); estimated as in
    Hasbrouck, J. (2009). Trading Costs and Returns for U.S. Equities. Journal of Finance 64(3).
    """
    price, signed_flow = _matrices(price=price, signed_flow=signed_flow)
    slope, _ = _line(signed_flow[:, 1:], BPS * _log_returns(price), fewest=3)
    return _over_markets(slope, "no market has order flow that varies over three steps with returns", bootstrap)


def amihud(price: np.ndarray, traded_value: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """Illiquidity, `1e6 * mean_t |log(p[t] / p[t-1])| / traded_value[t]` over steps with volume.

    Args:
        price: [M, T] currency.
        traded_value: [M, T] currency, price times lots; steps where it is 0 are left out, the first is unused.

    Source: Amihud, Y. (2002). Illiquidity and stock returns. Journal of Financial Markets 5(1).
    """
    price, traded_value = _matrices(price=price, traded_value=traded_value)
    ratio = np.abs(_log_returns(price)) / _positive(traded_value[:, 1:])
    return _over_markets(1e6 * _mean(ratio), "no step with a return has volume", bootstrap)


def volatility(price: np.ndarray, bootstrap: Bootstrap = DEFAULT) -> Estimate:
    """Standard deviation of log returns per step, `1e4 * std(log(p[t] / p[t-1]), ddof=1)` in bps; 0 when constant.

    Args:
        price: [M, T] currency; multiply by the root of the steps in a year for the annual number.
    """
    (price,) = _matrices(price=price)
    _, count, variance = _deviations(_log_returns(price))
    deviation = BPS * np.sqrt(variance * _ratio(count, count - 1.0, 0.0))
    return _over_markets(deviation, "no market has two returns", bootstrap)


def allocative_efficiency(
    start_lots: np.ndarray,
    end_lots: np.ndarray,
    private_value: np.ndarray,
    capacity_lots: np.ndarray,
    bootstrap: Bootstrap = DEFAULT,
) -> Estimate:
    """Share of the possible gains from trade that trade realised, `(sum end*u - sum start*u) / (max - sum start*u)`.

    The maximum is over all ways to hold the same total with `0 <= lots <= capacity`: highest private value first.
    1 is a perfect market; negative when trade moved lots to those who value them less. A market in which nothing
    could be gained is left out. It leaves out that a lot may be worth less to those who hold many.

    Args:
        start_lots: [M, N] lots held before trade.
        end_lots: [M, N] lots held after it.
        private_value: [M, N] currency per lot, to this investor.
        capacity_lots: [N] or [M, N] lots, the most an investor can use; may be inf.

    Raises:
        ValueError: lots outside of 0 to capacity, a total that trade changed, or values that are not finite.

    Source: Smith, V. L. (1962). An Experimental Study of Competitive Market Behavior. JPE 70(2);
    Gode, D. K. and Sunder, S. (1993). Allocative Efficiency of Markets with Zero-Intelligence Traders. JPE 101(1).
    """
    start, end, worth = _matrices(start_lots=start_lots, end_lots=end_lots, private_value=private_value)
    capacity = np.asarray(capacity_lots, np.float64)
    if capacity.shape not in (start.shape, start.shape[1:]):
        raise ValueError(f"capacity_lots: expected shape {start.shape[1:]} or {start.shape}, got {capacity.shape}")
    for name, lots in (("start_lots", start), ("end_lots", end)):
        if not ((lots >= 0) & (lots <= capacity)).all():
            raise ValueError(
                f"{name}: expected 0 <= lots <= capacity_lots; investors with debt of lots do not fit here"
            )
    total = start.sum(axis=1, keepdims=True)
    if not np.allclose(total, end.sum(axis=1, keepdims=True), rtol=1e-9, atol=0.0):
        raise ValueError("end_lots: expected each market's total of start_lots; give every account that traded")
    if not np.isfinite(worth).all():
        raise ValueError("private_value: expected finite values")
    order = np.argsort(-worth, axis=1, kind="stable")
    room = np.take_along_axis(np.minimum(capacity, total), order, axis=1)
    best = np.clip(total - (np.cumsum(room, axis=1) - room), 0.0, room)
    before = (start * worth).sum(axis=1)
    possible = (best * np.take_along_axis(worth, order, axis=1)).sum(axis=1) - before
    possible = np.where(possible > 1e-12 * (start * np.abs(worth)).sum(axis=1), possible, 0.0)
    efficiency = _ratio((end * worth).sum(axis=1) - before, possible, 0.0)
    return _over_markets(efficiency, "no market had gains from trade to realise", bootstrap)


def who_pays_whom(
    bought: np.ndarray, sold: np.ndarray, price: np.ndarray, value_end: np.ndarray, bootstrap: Bootstrap = DEFAULT
) -> Estimates:
    """What each role gained from each other one by trading away from the value, before fees, in currency.

    In each auction every buyer is matched with every seller pro rata: role i bought `buy_i * sell_j / volume` lots
    from role j and gained `value - price` on each, which j lost. `gain[i, j]` is the sum over steps of
    `(buy_i * sell_j - buy_j * sell_i) / volume * (value - price)`, averaged over markets. So `gain[i, j] =
    -gain[j, i]`, and row i sums to role i's trading profit, `sum_t (buy_i - sell_i) * (value - price)`. Who met whom
    inside an auction has no other meaning than this convention. A market that lacks a price or value for a trade
    is left out.

    Args:
        bought: [M, T, R] lots.
        sold: [M, T, R] lots; every step's total is that of `bought`.
        price: [M, T] currency per lot, the auction's one price.
        value_end: [M] or [M, T] currency per lot, what lots are worth at the end or at each step; may be 0.

    Returns:
        [R, R] gain of the row's role from the column's role.

    Raises:
        ValueError: shapes that do not fit, lots that are negative or not finite, or sides of unequal volume.
    """
    bought, sold = np.asarray(bought, np.float64), np.asarray(sold, np.float64)
    (price,) = _matrices(price=price)
    value = np.asarray(value_end, np.float64)
    if bought.ndim != 3 or bought.shape != sold.shape or bought.shape[:2] != price.shape:
        raise ValueError(f"bought, sold: expected shape (*{price.shape}, R) each, got {bought.shape} and {sold.shape}")
    if value.shape not in (price.shape, price.shape[:1]):
        raise ValueError(f"value_end: expected shape {price.shape[:1]} or {price.shape}, got {value.shape}")
    if not (np.isfinite(bought) & (bought >= 0) & np.isfinite(sold) & (sold >= 0)).all():
        raise ValueError("bought, sold: expected finite lots of at least 0; give both sides, not the net")
    volume = bought.sum(axis=2)
    if not np.allclose(volume, sold.sum(axis=2), rtol=1e-9, atol=0.0):
        raise ValueError("sold: expected each step's total of bought; give every role that traded")
    value = np.where(np.isfinite(value), value, np.nan)
    edge = (value if value.ndim == 2 else value[:, None]) - _positive(price)
    weight = np.where(volume > 0, edge / np.where(volume > 0, volume, 1.0), 0.0)
    moved = (bought * weight[:, :, None]).swapaxes(1, 2) @ sold
    gain = moved - moved.swapaxes(1, 2)
    return _each_over_markets(gain, "no market has a price and a value for every trade", bootstrap)


def market_quality(tape: Tape, allocation: Allocation | None = None, bootstrap: Bootstrap = DEFAULT) -> MarketQuality:
    """Every single number that judges a market, of one asset; `who_pays_whom` is a matrix and stands apart.

    Args:
        tape: what the markets wrote down.
        allocation: of the efficiency; without it that number is None.

    Returns:
        the numbers by name, always the same names.
    """
    numbers = {
        "pricing_error_bps": pricing_error(tape.price, tape.value, bootstrap),
        "quoted_spread_bps": quoted_spread(tape.best_bid, tape.best_ask, bootstrap),
        "depth_lots": depth(tape.bid_lots, tape.ask_lots, bootstrap),
        "kyle_lambda_bps_per_lot": kyle_lambda(tape.price, tape.signed_flow, bootstrap),
        "amihud_per_million": amihud(tape.price, np.multiply(tape.price, tape.volume), bootstrap),
        "volatility_bps": volatility(tape.price, bootstrap),
        "allocative_efficiency": Estimate(None, reason="private values were not recorded"),
    }
    if allocation is not None:
        numbers["allocative_efficiency"] = allocative_efficiency(**vars(allocation), bootstrap=bootstrap)
    return MarketQuality(numbers)


def stylised_facts(
    returns: np.ndarray, volume: np.ndarray | None = None, lags: int = 100, bootstrap: Bootstrap = DEFAULT
) -> StylisedFacts:
    """Heavy tails, no memory in returns, long memory in their size: the facts that a market's returns should show.

    Kurtosis is the estimator that is unbiased for normal returns, `G2` of Joanes and Gill (1998), so that few returns
    at a long horizon do not pass for thin tails. Returns of a horizon do not overlap. Autocorrelation at lag k is the
    mean of the `T - k` products of deviations over their variance. The decay is a least-squares line through
    log autocorrelation over log lag, from lag 1 to the last before the first that is not positive (five at least).

    Args:
        returns: [M, T] log returns.
        volume: [M, T] lots traded in the step of the return; without it the correlation with volume is None.
        lags: `L`, the longest lag in steps.

    Raises:
        ValueError: shapes that do not fit each other, or `lags` below 1.

    Source: Cont, R. (2001). Empirical properties of asset returns: stylized facts and statistical issues.
    Quantitative Finance 1(2).
    """
    (returns,) = _matrices(returns=returns)
    if lags < 1:
        raise ValueError(f"lags: expected at least 1, got {lags}")
    returns = np.where(np.isfinite(returns), returns, np.nan)
    size = np.abs(returns)
    memory = _autocorrelation(size, lags)
    related = Estimate(None, reason="volume was not recorded")
    if volume is not None:
        _, volume = _matrices(returns=returns, volume=volume)
        _, correlation = _line(size, volume, fewest=3)
        related = _over_markets(correlation, "no market has volume and returns that vary", bootstrap)
    return StylisedFacts(
        lags=np.arange(1, lags + 1),
        excess_kurtosis=_over_markets(_excess_kurtosis(returns), _NO_RETURNS, bootstrap),
        autocorrelation=_each_over_markets(_autocorrelation(returns, lags), _NO_RETURNS, bootstrap),
        absolute_autocorrelation=_each_over_markets(memory, _NO_RETURNS, bootstrap),
        decay_exponent=_decay(memory, bootstrap),
        aggregated_kurtosis={
            horizon: _over_markets(_excess_kurtosis(_aggregated(returns, horizon)), _NO_RETURNS, bootstrap)
            for horizon in HORIZONS
        },
        volume_volatility=related,
    )


def facts_of_daily_bars(
    close: np.ndarray, volume: np.ndarray, lags: int = 100, bootstrap: Bootstrap = DEFAULT
) -> StylisedFacts:
    """`stylised_facts` of real bars, with each asset as one market.

    Assets of one history move together, which a bootstrap over assets does not see: its intervals are too narrow.

    Args:
        close: [T, A] currency, adjusted for splits.
        volume: [T, A] shares.
        lags: the longest lag in bars.
    """
    close, volume = _matrices(close=close, volume=volume)
    return stylised_facts(_log_returns(close.T), volume.T[:, 1:], lags, bootstrap)


def _matrices(**arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in float64, of two axes and one shape."""
    given = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in given.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"{', '.join(given)}: expected two axes and equal shapes, got {shapes}")
    return list(given.values())


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _log_returns(price: np.ndarray) -> np.ndarray:
    """[M, T] to [M, T-1] (none for T = 0)."""
    return np.diff(np.log(_positive(price)), axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    """[..., T] to [...], of what is finite; nan where nothing is."""
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0.0).sum(axis=-1), finite.sum(axis=-1), 0.0)


def _deviations(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[M, T] to deviations from the mean [M, T] (0 where missing), counts [M] and variances [M] (divided by count).

    What varies by rounding alone has deviations and variance of exactly 0. Without values the variance is nan.
    """
    finite = np.isfinite(values)
    count = finite.sum(axis=1).astype(np.float64)
    deviation = np.where(finite, values - _mean(values)[:, None], 0.0)
    square = _mean(np.where(finite, values, np.nan) ** 2)
    variance = _ratio((deviation**2).sum(axis=1), count, 0.0)
    constant = variance <= 1e-24 * np.maximum(square, 1.0)
    return np.where(constant[:, None], 0.0, deviation), count, np.where(constant, 0.0, variance)


def _line(x: np.ndarray, y: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """[M] least-squares slopes of y on x and [M] correlations, both [M, T], over the steps that have both.

    Nan for fewer pairs than `fewest`, where x is constant and, the correlation, where y is.
    """
    both = np.isfinite(x) & np.isfinite(y)
    (dx, count, vx), (dy, _, vy) = _deviations(np.where(both, x, np.nan)), _deviations(np.where(both, y, np.nan))
    product = np.where(count >= fewest, _mean(np.where(both, dx * dy, np.nan)), np.nan)
    return _ratio(product, vx, 0.0), _ratio(product, np.sqrt(vx) * np.sqrt(vy), 0.0)


def _excess_kurtosis(returns: np.ndarray) -> np.ndarray:
    """[M] `G2 = (n-1) / ((n-2)(n-3)) * ((n+1) * (m4 / m2^2 - 3) + 6)`; nan for fewer than four or constant returns."""
    deviation, count, variance = _deviations(returns)
    excess = _ratio((deviation**4).sum(axis=1), count * variance**2, 0.0) - 3.0
    n = np.where(count >= 4, count, np.nan)
    return (n - 1.0) / ((n - 2.0) * (n - 3.0)) * ((n + 1.0) * excess + 6.0)


def _aggregated(returns: np.ndarray, horizon: int) -> np.ndarray:
    """[M, T] to [M, T // horizon] sums; missing where any part is."""
    markets, steps = returns.shape
    periods = steps // horizon
    return returns[:, : periods * horizon].reshape(markets, periods, horizon).sum(axis=2)


def _autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """[M, T] to [M, L], by Fourier transform; nan at lags of few pairs and for constant values."""
    deviation, _, variance = _deviations(values)
    size = 1 << (values.shape[1] + lags - 1).bit_length()

    def products(series: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(series, size, axis=1)) ** 2
        return np.fft.irfft(power, size, axis=1)[:, 1 : lags + 1]

    pairs = np.rint(products(np.isfinite(values).astype(np.float64)))
    usable = np.where(pairs >= _MIN_PAIRS, pairs, np.nan)
    return _ratio(products(deviation) / usable, variance[:, None], 0.0)


def _decay(memory: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Exponent of the power law through the average over markets of `memory` [M, L]."""
    undefined = "too few lags with positive autocorrelation for a fit"
    point, sampled = _averages(memory, bootstrap)

    def exponent(curve: np.ndarray) -> np.ndarray:  # [B, L] to [B]
        run = np.logical_and.accumulate(curve > 0, axis=1)
        lag = np.broadcast_to(np.log(np.arange(1.0, curve.shape[1] + 1)), curve.shape)
        return -_line(lag, np.log(np.where(run, curve, np.nan)), _MIN_DECAY_LAGS)[0]

    value = float(exponent(point[None])[0])
    return _interval(value, exponent(sampled), undefined, bootstrap, markets=memory.shape[0])


def _averages(values: np.ndarray, bootstrap: Bootstrap) -> tuple[np.ndarray, np.ndarray]:
    """[M, K] to averages over markets [K] and their resamples [B, K], the same markets for every column."""
    markets, columns = values.shape
    if markets == 0 or columns == 0:
        return np.full(columns, np.nan), np.full((bootstrap.draws, columns), np.nan)
    ids = np.arange(markets)
    picks = _resample_clusters(np.random.default_rng(bootstrap.seed), bootstrap.draws, markets)
    point = [_average(column[None], ids)[0] for column in values.T]
    return np.array(point), np.stack([_average(column[None], ids, picks) for column in values.T], axis=1)


def _interval(value: float, sampled: np.ndarray, undefined: str, bootstrap: Bootstrap, *, markets: int) -> Estimate:
    if markets == 1 and np.isfinite(value):
        return Estimate(float(value), reason=_ONE_MARKET)
    return _estimate(value, sampled, bootstrap.confidence, undefined, resampled=True)


def _over_markets(values: np.ndarray, undefined: str, bootstrap: Bootstrap) -> Estimate:
    """[M], nan where it has no meaning, to the estimate of the average."""
    point, sampled = _averages(values[:, None], bootstrap)
    return _interval(float(point[0]), sampled[:, 0], undefined, bootstrap, markets=values.shape[0])


def _each_over_markets(values: np.ndarray, undefined: str, bootstrap: Bootstrap) -> Estimates:
    """[M, ...] to the estimates [...] of the averages."""
    markets, shape = values.shape[0], values.shape[1:]
    point, sampled = _averages(values.reshape(markets, int(np.prod(shape))), bootstrap)
    each = [
        _interval(value, column, undefined, bootstrap, markets=markets)
        for value, column in zip(point.tolist(), sampled.T, strict=True)
    ]
    numbers = np.array([[one.value, one.low, one.high] for one in each], np.float64).reshape(-1, 3)
    value, low, high = (numbers[:, place].reshape(shape) for place in range(3))
    return Estimates(value, low, high, next((one.reason for one in each if one.reason), ""))
