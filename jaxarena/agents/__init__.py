"""Scripted strategies: the rest of the market, and the baselines.

A strategy reads the same views as a learner and sends orders. Belongs here: rules without state of their own; what
tells agents of one strategy apart are traits that each draws at reset. Does not belong here: learning.
"""

from jaxarena.agents.base import Learned, Strategy
from jaxarena.agents.investors import (
    BuyAndHold,
    EqualWeight,
    Hold,
    MeanReversion,
    Momentum,
    Random,
    toward_weights,
)
from jaxarena.agents.quoters import Fundamentalist, MarketMaker, NoiseTrader, TrendFollower, ZeroIntelligence

__all__ = [
    "BuyAndHold",
    "EqualWeight",
    "Fundamentalist",
    "Hold",
    "Learned",
    "MarketMaker",
    "MeanReversion",
    "Momentum",
    "NoiseTrader",
    "Random",
    "Strategy",
    "TrendFollower",
    "ZeroIntelligence",
    "toward_weights",
]
