"""How good a trading record is, and how sure we can be: NumPy float64 on equity curves.

Belongs here: numbers computed from finished curves. Does not belong here: how curves are collected
(`evaluate`) or drawn (`plots`).

Shapes: `M` curves, `T` steps, `B` bootstrap draws, `C` clusters of curves. A curve that reaches zero
(or less) is bankrupt: it counts as zero from then on, its last return is -1 and later ones are 0.
A metric that has no meaning for a curve is nan inside this module and `None` with a reason in `Estimate`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

TRADING_DAYS = 252.0
_CHUNK_ENTRIES = 2_000_000  # resampled returns held at once


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; what could not be computed is None, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `value`, `interval` ([low, high] or None) and, only where there is one, `reason`."""
        interval = None if self.low is None else [self.low, self.high]
        return {"value": self.value, "interval": interval} | ({"reason": self.reason} if self.reason else {})


def returns_of(equity: np.ndarray) -> np.ndarray:
    """Simple return of every step, `E[t+1] / E[t] - 1`.

    Args:
        equity: [M, T+1] money, marked after every step.

    Returns:
        [M, T]; -1 on the step that bankrupts, 0 after it.

    Raises:
        ValueError: wrong rank, fewer than two points, a value that is not finite, or a start that is not positive.
    """
    equity = np.asarray(equity, np.float64)
    if equity.ndim != 2 or equity.shape[0] < 1 or equity.shape[1] < 2:
        raise ValueError(f"equity: expected shape [M, T+1] with M >= 1 and T >= 1, got {equity.shape}")
    if not np.isfinite(equity).all() or (equity[:, 0] <= 0).any():
        raise ValueError("equity: expected finite values and a positive start of every curve; check the evaluation")
    alive = np.minimum.accumulate(equity, axis=1) > 0
    equity = np.where(alive, equity, 0.0)
    before = np.where(alive[:, :-1], equity[:, :-1], 1.0)
    return np.where(alive[:, :-1], equity[:, 1:] / before - 1.0, 0.0)


def annual_return(returns: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Compound growth rate per year, `prod(1 + r) ** (periods_per_year / T) - 1`; -1 when bankrupt.

    Args:
        returns: [..., T] simple returns per step.
        periods_per_year: steps in a year.

    Returns:
        [...]; never nan. Very short curves with large gains can give inf, which `Estimate` reports as undefined.
    """
    growth = np.prod(1.0 + returns, axis=-1)
    with np.errstate(over="ignore"):
        return growth ** (periods_per_year / returns.shape[-1]) - 1.0


def annual_volatility(returns: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Standard deviation of returns per year, `std(r, ddof=1) * sqrt(periods_per_year)`.

    Args and returns as `annual_return`; nan for a single step, 0 for constant equity.
    """
    if returns.shape[-1] < 2:
        return np.full(returns.shape[:-1], np.nan)
    return returns.std(axis=-1, ddof=1) * math.sqrt(periods_per_year)


def sharpe(returns: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Sharpe ratio without a riskless rate, `mean(r) / std(r, ddof=1) * sqrt(periods_per_year)`.

    Args and returns as `annual_return`; nan for a single step or returns without variation.

    Source: Sharpe, W. F. (1994). The Sharpe Ratio. Journal of Portfolio Management 21(1).
    """
    return _ratio(returns.mean(axis=-1) * periods_per_year, annual_volatility(returns, periods_per_year), 1e-12)


def sortino(returns: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Sortino ratio with target 0, `mean(r) / sqrt(mean(min(r, 0)^2)) * sqrt(periods_per_year)`.

    Args and returns as `annual_return`; nan when no step lost money.

    Source: Sortino, F. A. and Price, L. N. (1994). Performance Measurement in a Downside Risk Framework.
    """
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2, axis=-1))
    return _ratio(returns.mean(axis=-1) * math.sqrt(periods_per_year), downside, 1e-12)


def drawdown_of(returns: np.ndarray) -> np.ndarray:
    """Loss from the highest equity so far, `1 - E / max(E up to now)`.

    Args:
        returns: [..., T] simple returns per step.

    Returns:
        [..., T+1], from 0 (at a high) to 1 (nothing left); the first entry is 0.
    """
    start = np.ones((*returns.shape[:-1], 1))
    equity = np.concatenate([start, np.cumprod(1.0 + returns, axis=-1)], axis=-1)
    return 1.0 - equity / np.maximum.accumulate(equity, axis=-1)


def max_drawdown(returns: np.ndarray) -> np.ndarray:
    """Largest loss from an earlier high, a positive number: `max(drawdown_of(returns))`; 0 when equity never fell."""
    return drawdown_of(returns).max(axis=-1)


def calmar(returns: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Annual return over maximum drawdown; nan when equity never fell.

    Source: Young, T. W. (1991). Calmar Ratio: A Smoother Tool. Futures 20(1).
    """
    return _ratio(annual_return(returns, periods_per_year), max_drawdown(returns), 1e-12)


def hit_rate(returns: np.ndarray) -> np.ndarray:
    """Share of gaining steps among steps on which equity moved; nan when it never moved."""
    return _ratio((returns > 0).sum(axis=-1), (returns != 0).sum(axis=-1), 0.0)


def turnover_of(equity: np.ndarray, notional: np.ndarray, periods_per_year: float = TRADING_DAYS) -> np.ndarray:
    """Traded money per year over equity, `periods_per_year / T * sum_t notional[t] / E[t]`.

    Buys and sells both count, so that replacing the whole portfolio once adds 2. Steps after bankruptcy add 0.

    Args:
        equity: [M, T+1] money; the entry before the step is the denominator.
        notional: [M, T] money, bought plus sold on the step.
        periods_per_year: steps in a year.

    Returns:
        [M].

    Raises:
        ValueError: shapes that do not fit each other, or negative notional.
    """
    return periods_per_year * _traded_share(equity, notional).mean(axis=-1)


_OF_RETURNS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "annual_return": annual_return,
    "volatility": annual_volatility,
    "sharpe": sharpe,
    "sortino": sortino,
    "max_drawdown": lambda returns, _: max_drawdown(returns),
    "calmar": calmar,
    "hit_rate": lambda returns, _: hit_rate(returns),
}
METRICS = (*_OF_RETURNS, "turnover")
_UNDEFINED = {
    "annual_return": "growth per year exceeds what a number can hold",
    "volatility": "needs two steps",
    "sharpe": "returns do not vary",
    "sortino": "no step lost money",
    "calmar": "equity never fell",
    "hit_rate": "equity never moved",
}


def summarise(
    equity: np.ndarray,
    notional: np.ndarray,
    *,
    periods_per_year: float = TRADING_DAYS,
    clusters: np.ndarray | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    block: int | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of a group of curves, averaged over the curves, with a bootstrap confidence interval.

    The value is the mean over clusters of the mean over curves, of the curves on which the metric is defined.
    The interval is the percentile interval of a two-way bootstrap: each draw takes blocks of time (circular
    blocks, the same for all curves, because curves that lived through one history move together) and, where
    there are several, clusters with replacement. It leaves out that drawdowns are biased under resampling.

    Args:
        equity: [M, T+1] money.
        notional: [M, T] money traded per step, both sides.
        periods_per_year: steps in a year.
        clusters: [M] int, curves with one number are resampled together (agents of one market); default one each.
        draws: bootstrap draws `B`.
        confidence: level of the interval.
        block: block length in steps; default `ceil(T ** (1/3))`, the order that minimises the variance's error.
        seed: of the resampling; equal seeds give equal intervals.

    Returns:
        an `Estimate` for every name in `METRICS`.

    Raises:
        ValueError: shapes or values that cannot be equity curves, or a block outside `1 .. T`.

    Source: Politis, D. N. and Romano, J. P. (1992). A circular block-resampling procedure for stationary data;
    Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1(2).
    """
    returns, traded = returns_of(equity), _traded_share(equity, notional)
    steps = returns.shape[1]
    cluster_ids = _cluster_ids(clusters, returns.shape[0])
    block = math.ceil(steps ** (1 / 3)) if block is None else block
    if not 1 <= block <= steps:
        raise ValueError(f"block: got {block}, allowed is 1 to the number of steps, {steps}")
    rng = np.random.default_rng(seed)
    per_draw = max(1, _CHUNK_ENTRIES // returns.size)
    parts = []
    for begin in range(0, draws, per_draw):
        index = _circular_blocks(rng, min(per_draw, draws - begin), steps, block)
        parts.append(_metrics(_take_steps(returns, index), _take_steps(traded, index), periods_per_year))
    picks = _resample_clusters(rng, draws, int(cluster_ids.max()) + 1)
    point = _metrics(returns, traded, periods_per_year)
    return {
        name: _estimate(
            _average(point[name][None], cluster_ids)[0],
            _average(np.concatenate([part[name] for part in parts]), cluster_ids, picks),
            confidence,
            "too few steps" if name in ("sharpe", "volatility") and steps < 2 else _UNDEFINED.get(name, ""),
            resampled=steps > 1 or returns.shape[0] > 1,
        )
        for name in METRICS
    }


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half of all scores, `floor(n / 4)` cut from each end."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def iqm_estimate(scores: np.ndarray, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Interquartile mean of several seeds' scores with a stratified bootstrap interval.

    Every draw resamples seeds with replacement within each task on its own.

    Args:
        scores: [S, K] score of seed s on task (market, role) k; at least one seed.
        draws: bootstrap draws.
        confidence: level of the interval.
        seed: of the resampling.

    Returns:
        the estimate; without an interval, and with the reason, for a single seed.

    Raises:
        ValueError: not two axes, or a score that is not finite.

    Source: Agarwal, R. et al. (2021). Deep Reinforcement Learning at the Edge of the Statistical Precipice. NeurIPS.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores: expected finite values of shape [S, K], got shape {scores.shape}")
    seeds, tasks = scores.shape
    if seeds == 1:
        return Estimate(iqm(scores), reason="an interval needs several seeds")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, seeds, (draws, seeds, tasks))
    ordered = np.sort(scores[picks, np.arange(tasks)].reshape(draws, -1), axis=1)
    cut = scores.size // 4
    sampled = ordered[:, cut : scores.size - cut].mean(axis=1)
    return _estimate(iqm(scores), sampled, confidence, "", resampled=True)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, smallest: float) -> np.ndarray:
    """`numerator / denominator`, nan where the denominator is at most `smallest` or itself nan."""
    usable = denominator > smallest
    return np.where(usable, numerator / np.where(usable, denominator, 1.0), np.nan)


def _traded_share(equity: np.ndarray, notional: np.ndarray) -> np.ndarray:
    """[M, T] traded money over the equity before the step; 0 once equity is gone."""
    equity, notional = np.asarray(equity, np.float64), np.asarray(notional, np.float64)
    expected = (equity.shape[0], equity.shape[1] - 1)
    if notional.shape != expected:
        raise ValueError(
            f"notional: expected shape {expected} for equity of shape {equity.shape}, got {notional.shape}"
        )
    if not (np.isfinite(notional) & (notional >= 0)).all():
        raise ValueError("notional: expected finite amounts of at least 0; give bought plus sold, not the net")
    alive = (np.minimum.accumulate(equity, axis=1) > 0)[:, :-1]
    return np.where(alive, notional / np.where(alive, equity[:, :-1], 1.0), 0.0)


def _metrics(returns: np.ndarray, traded: np.ndarray, periods_per_year: float) -> dict[str, np.ndarray]:
    """All metrics along the last axis: [..., T] to [...]."""
    values = {name: function(returns, periods_per_year) for name, function in _OF_RETURNS.items()}
    return values | {"turnover": periods_per_year * traded.mean(axis=-1)}


def _circular_blocks(rng: np.random.Generator, draws: int, steps: int, block: int) -> np.ndarray:
    """[B, T] indices made of runs of `block` steps that start anywhere and wrap around the end."""
    starts = rng.integers(0, steps, (draws, -(-steps // block), 1))
    return ((starts + np.arange(block)) % steps).reshape(draws, -1)[:, :steps]


def _take_steps(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """[M, T] at [B, T] to [B, M, T]."""
    return values[:, index].swapaxes(0, 1)


def _cluster_ids(clusters: np.ndarray | None, curves: int) -> np.ndarray:
    if clusters is None:
        return np.arange(curves)
    if np.shape(clusters) != (curves,):
        raise ValueError(f"clusters: expected one number for each of {curves} curves, got shape {np.shape(clusters)}")
    return np.unique(clusters, return_inverse=True)[1]


def _resample_clusters(rng: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """[B, C] how often each cluster was drawn."""
    return rng.multinomial(count, np.full(count, 1.0 / count), draws)


def _average(values: np.ndarray, cluster_ids: np.ndarray, picks: np.ndarray | None = None) -> np.ndarray:
    """[B, M] to [B]: mean over clusters, weighted by `picks`, of the mean over their defined curves; else nan."""
    member = np.eye(int(cluster_ids.max()) + 1)[cluster_ids]  # [M, C]
    defined = np.isfinite(values)
    count = defined.astype(np.float64) @ member
    mean = np.where(defined, values, 0.0) @ member / np.maximum(count, 1.0)
    weight = (count > 0) * (1.0 if picks is None else picks)
    total = weight.sum(axis=1)
    return np.where(total > 0, (mean * weight).sum(axis=1) / np.maximum(total, 1.0), np.nan)


def _estimate(value: float, sampled: np.ndarray, confidence: float, undefined: str, *, resampled: bool) -> Estimate:
    """Percentile interval; None for what is undefined or when more than a twentieth of the draws is."""
    if not np.isfinite(value):
        return Estimate(None, reason=undefined)
    if not resampled:
        return Estimate(float(value), reason="an interval needs more than one step")
    usable = sampled[np.isfinite(sampled)]
    if usable.size < 0.95 * sampled.size:
        return Estimate(float(value), reason="undefined on too many resamples for an interval")
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(usable, [tail, 100.0 - tail])
    return Estimate(float(value), float(low), float(high))
