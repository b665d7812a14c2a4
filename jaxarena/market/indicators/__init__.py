"""Technical indicators that cost the same at bar 20 and at bar 20 million.

Belongs here: the window of recent bars that a market shares, and functions of prices and volumes
that follow it one bar at a time. Does not belong here: what an agent sees of them (observations),
or anything that depends on an account.

Windowed indicators compute from the window, so no running sum drifts. Recursive ones carry a few
floats per asset. Differences are taken from the newest close before anything is
squared or averaged: float32 has 24 bits, and prices reach 4e7 ticks.
"""

from jaxarena.market.indicators.averages import Bollinger, Ema, Macd, Sma, ZScore
from jaxarena.market.indicators.base import FEATURE_LIMIT, Indicator, scan_history, update_all, window_length
from jaxarena.market.indicators.oscillators import Rsi, Stochastic
from jaxarena.market.indicators.volatility import Atr, RealizedVolatility
from jaxarena.market.indicators.volume import Obv, VwapDistance
from jaxarena.market.indicators.window import Window

__all__ = [
    "FEATURE_LIMIT",
    "Atr",
    "Bollinger",
    "Ema",
    "Indicator",
    "Macd",
    "Obv",
    "RealizedVolatility",
    "Rsi",
    "Sma",
    "Stochastic",
    "VwapDistance",
    "Window",
    "ZScore",
    "scan_history",
    "update_all",
    "window_length",
]
