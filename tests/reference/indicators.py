"""Slow, obvious indicators in NumPy float64, for those that TA-Lib lacks. Series in, series out, NaN before warm-up."""

import numpy as np


def realized_volatility(close, period):
    out = np.full(len(close), np.nan)
    for t in range(period, len(close)):
        returns = [np.log(close[i] / close[i - 1]) for i in range(t - period + 1, t + 1)]
        out[t] = np.sqrt(sum(r * r for r in returns) / period)
    return out


def vwap_distance(high, low, close, volume, period):
    out = np.full(len(close), np.nan)
    for t in range(period - 1, len(close)):
        rows = range(t - period + 1, t + 1)
        traded = sum(volume[i] for i in rows)
        turnover = sum((high[i] + low[i] + close[i]) / 3 * volume[i] for i in rows)
        out[t] = close[t] / (turnover / traded) - 1 if traded > 0 else 0.0
    return out


def z_score(close, period):
    out = np.full(len(close), np.nan)
    for t in range(period - 1, len(close)):
        window = np.array(close[t - period + 1 : t + 1])
        deviation = window.std()
        out[t] = (close[t] - window.mean()) / deviation if deviation > 0 else 0.0
    return out
