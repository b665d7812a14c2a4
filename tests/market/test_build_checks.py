"""What cannot be played is refused when the market is built, in words; and a market survives the way through YAML."""

import jax
import numpy as np
import pytest
import yaml

from jaxarena.core import schema
from jaxarena.core.tree import as_arrays
from jaxarena.env.actions import BuyHoldSell, TargetExposure, TargetWeights
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import LinearImpact, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm
from tests.reference import arena

TRADER = Role(name="trader", observations=(Portfolio(),))
MARKET = MarketParams(process=Gbm(n_assets=2), roles=(TRADER,), indicators=())


def with_role(**changes):
    return {"roles": (TRADER.replace(**changes),)}


def test_the_market_that_the_cases_change_is_built():
    MarketEnv.build(MARKET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": ()}, "at least one role"),
        ({"roles": (TRADER, TRADER)}, "names must differ"),
        (with_role(count=0), r"roles\.trader\.count"),
        (with_role(name="a b"), "letters, digits and underscores"),
        (with_role(rewards=()), "at least one observation block and one reward term"),
        (with_role(limits=RiskLimits(max_position_lots=2**30), count=2), "max_position_lots"),
        ({"lot_multiplier": 2**20}, "lot_multiplier"),
        ({"episode_length": 0}, r"market\.episode_length"),
        ({"flow_memory": 1.5}, r"market\.flow_memory"),
        # nothing to lose: log returns would be 0 / 0
        (with_role(cash=0.0), r"roles\.trader\.cash"),
        (with_role(cash=100.0, lots=-1000, limits=RiskLimits(allow_short=True)), r"roles\.trader"),
        # a step of 1 / 0
        (with_role(action=TargetExposure(n_levels=1)), "n_levels"),
        (with_role(action=BuyHoldSell(levels=0)), "levels"),
        (with_role(action=TargetWeights(low=2.0)), "low"),
        # three numbers for two assets
        ({"costs": ProportionalFees(fee_bps=(1.0, 2.0, 3.0))}, "fee_bps"),
        ({"mechanism": Dealer(half_spread_bps=(1.0, 2.0, 3.0))}, "half_spread_bps"),
        ({"mechanism": Dealer(impact=LinearImpact(permanent=(1.0, 2.0, 3.0)))}, "permanent"),
        ({"process": Gbm(n_assets=2, market_loading=(0.1, 0.2, 0.3))}, "market_loading"),
        ({"lot_multiplier": (1, 2, 3)}, "lot_multiplier"),
        (with_role(lots=(1, 2, 3)), "lots"),
        # the default observations show indicators, of which there are none
        ({"roles": (Role(name="trader"),)}, "indicators"),
        ({"horizon": "forever"}, "horizon"),
    ],
)
def test_a_market_that_cannot_be_played_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MarketEnv.build(MARKET.replace(**changes))


def test_a_market_survives_the_way_through_yaml():
    market = arena.market()
    back = schema.decode(MarketParams, yaml.safe_load(yaml.safe_dump(schema.encode(market))), "market")
    assert jax.tree.structure(as_arrays(back)) == jax.tree.structure(as_arrays(market))
    for got, expected in zip(jax.tree.leaves(back), jax.tree.leaves(market), strict=True):
        np.testing.assert_array_equal(got, expected)
