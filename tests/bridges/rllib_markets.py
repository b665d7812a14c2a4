"""Markets for the tests of the RLlib bridge, each built once."""

import functools

import jax.numpy as jnp

from bridges.markets import load_market
from jaxarena.agents import Random
from jaxarena.env.actions import BuyHoldSell, TargetWeights
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import BarReturns, MarketFlow, Portfolio, TimeLeft
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

#: Much borrowed money and little patience: one bad bar can take an agent's equity.
WILD = RiskLimits(max_leverage=4.0, allow_short=True, initial_margin=0.2, maintenance_margin=0.15, ruin_fraction=0.2)


@functools.cache
def two_roles(length=12, horizon="continuing", alike=False):
    """Two kinds of learned agents in a market that ruins many of them, and scripted agents between them.

    `taker` has a Box of two actions and the longer observation, `maker` a MultiDiscrete((3, 3)) and the shorter one.
    Sorting the roles by name turns their order around. With random actions half of the agents die in mid-episode, and
    in some episodes all of them do before the limit.

    Args:
        length: steps of an episode; markets that differ in this alone share one environment, and so what is compiled.
        horizon: see `MarketParams`; a terminal one shows the time left to both roles.
        alike: give both roles the spaces of `taker`.
    """
    env, params = _two_roles(horizon, alike)
    return env, params.replace(episode_length=jnp.int32(length))


@functools.cache
def _two_roles(horizon, alike):
    time = (TimeLeft(),) if horizon == "terminal" else ()
    account = (*time, MarketFlow(), Portfolio())
    seen = (BarReturns(length=3), *account)
    taker = Role(name="taker", count=3, cash=20_000.0, limits=WILD, action=TargetWeights(), observations=seen)
    crowd = Role(name="crowd", count=2, cash=20_000.0, strategy=Random(trade_probability=0.5), observations=())
    maker = taker.replace(name="maker", count=2, cash=30_000.0)
    if not alike:
        maker = maker.replace(action=BuyHoldSell(levels=1), observations=account)
    return MarketEnv.build(
        MarketParams(
            process=Gbm(n_assets=2, volatility=2.0, drift=0.0, periods_per_year=100.0),
            roles=(taker, crowd, maker),
            mechanism=Dealer(half_spread_bps=3.0),
            costs=ProportionalFees(fee_bps=2.0),
            indicators=(),
            horizon=horizon,
        )
    )


def planted():
    """One learned role with a Discrete(3) in which nobody dies: eight traders, 64 steps."""
    return load_market("PlantedSignal-v0")
