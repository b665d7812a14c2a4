"""The call auction as a mechanism: resting orders, collars, marks, roles of makers and takers, and its own pages."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena.agents import ZeroIntelligence
from jaxarena.core.money import Money, int_quanta
from jaxarena.core.types import KEEP, Bar, Orders, Quote
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import AuctionBook
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.experiment.quality import allocative_efficiency
from jaxarena.market.auction import CallAuction
from jaxarena.market.auction.clearing import shuffled
from jaxarena.market.costs import Financing, MakerTakerFees, ProportionalFees
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

PAGE = Path(__file__).parents[2] / "docs" / "call_auction.md"
HUNDRED = jnp.array([100], jnp.int32)
QUOTE = Quote(
    previous_close=HUNDRED,
    bar=Bar(open=HUNDRED, high=HUNDRED, low=HUNDRED, close=HUNDRED, volume=jnp.ones(1)),
    depth_lots=jnp.ones(1),
    volatility=jnp.ones(1),
)


def step(auction, state, lots, limits, key=0):
    """One auction of `[N, K]` orders of one asset: state, fills, refused."""
    orders = Orders(jnp.asarray(lots, jnp.int32)[:, None, :], jnp.asarray(limits, jnp.int32)[:, None, :])
    state, admitted, refused = auction.admit(state, orders, QUOTE)
    state, fills, _ = auction.clear(jax.random.key(key), state, admitted, QUOTE, jnp.int32(1))
    return state, fills, refused


def net(fills):
    return (fills.bought - fills.sold)[:, 0].tolist()


def test_orders_rest_until_their_time_is_over_or_they_are_replaced_or_cancelled():
    auction = CallAuction(time_in_force=3)
    start = auction.init(HUNDRED, 2, 1)
    keep, seller = [[0], [0]], [[KEEP], [0]]
    state, _, _ = step(auction, start, [[5], [0]], [[99], [0]])
    assert auction.own(state).resting_lots[0, 0, 0] == 5
    later, fills, _ = step(auction, state, [[0], [-2]], [[KEEP], [98]])
    assert net(fills) == [2, -2]
    assert auction.own(later).resting_lots[:, 0, 0].tolist() == [3, 0]
    assert int(auction.own(later).resting_age[0, 0, 0]) == 2
    _replaced, fills, _ = step(auction, state, [[1], [-9]], [[99], [98]])
    assert net(fills) == [1, -1]
    cancelled, _, _ = step(auction, state, keep, [[0], [0]])
    assert not np.asarray(auction.own(cancelled).resting_lots).any()
    for _ in range(2):
        state, _, _ = step(auction, state, keep, seller)
    _, fills, _ = step(auction, state, [[0], [-9]], [[KEEP], [98]])
    assert net(fills) == [0, 0]  # the fourth auction


def test_orders_of_one_auction_do_not_rest():
    auction = CallAuction()
    state, _, _ = step(auction, auction.init(HUNDRED, 2, 1), [[5], [0]], [[99], [0]])
    _, fills, _ = step(auction, state, [[0], [-2]], [[KEEP], [98]])
    assert net(fills) == [0, 0]


def test_a_market_order_has_a_collar_and_forced_selling_finds_no_price_beyond_it():
    auction = CallAuction(collar_bps=500.0)
    start = auction.init(HUNDRED, 2, 1)
    for bid, filled in ((95, [3, -3]), (94, [0, 0])):
        _, fills, _ = step(auction, start, [[3], [-3]], [[bid], [0]])
        assert net(fills) == filled


def test_what_cannot_enter_is_refused_and_counted_and_own_orders_that_cross_are_cancelled():
    auction = CallAuction()
    start = auction.init(HUNDRED, 2, 2)
    _, fills, refused = step(auction, start, [[2**29, 1], [-1, 0]], [[100, -7], [100, 0]])
    assert refused.tolist() == [2, 0]
    assert net(fills) == [0, 0]
    _, fills, _ = step(auction, start, [[4, -4], [-4, 0]], [[101, 100], [100, 0]])
    assert fills.self_matched.tolist() == [2, 0]
    assert net(fills) == [0, 0]


def test_makers_are_those_who_did_not_cross_the_reference():
    auction = CallAuction()
    _, fills, _ = step(auction, auction.init(HUNDRED, 2, 1), [[3], [-3]], [[99], [98]])
    assert fills.maker_lots[:, 0].tolist() == [3, 0]
    assert fills.taker_lots[:, 0].tolist() == [0, 3]
    fees = MakerTakerFees(maker_bps=0.0, taker_bps=100.0)
    notional = Money.of_ints([[300], [300]])
    assert int_quanta(fees.fee(notional, jnp.array([[3], [3]]), fills.maker_lots, 100)) == [[0], [3]]


def test_marks_move_with_enough_volume_only_and_closing_pays_the_half_spread():
    auction = CallAuction(mark_volume=5, spread_memory=0.0)
    state, _, _ = step(auction, auction.init(HUNDRED, 3, 1), [[3], [-3], [0]], [[110], [110], [0]])
    assert int(state.book.price_ticks[0]) == 110
    assert float(auction.mid(state, QUOTE)[0]) == 100.0
    state, _, _ = step(auction, state, [[9], [-6], [-2]], [[108], [106], [112]])
    mark = float(auction.mid(state, QUOTE)[0])
    assert mark == 108.0
    half = (112 - 108) / 2
    closing = auction.closing_prices(state, jnp.array([[5], [-5]]), QUOTE)
    assert closing[:, 0].tolist() == [mark - half, mark + half]


def test_the_reference_follows_quotes_where_nothing_trades():
    auction = CallAuction()
    state, _, _ = step(auction, auction.init(HUNDRED, 2, 1), [[3], [-3]], [[104], [107]])
    assert int(state.book.price_ticks[0]) == 104
    assert int(state.book.volume_lots[0]) == 0


def test_priorities_are_a_permutation_and_fair():
    draws = np.asarray(jax.vmap(lambda key: shuffled(key, (24,)))(jax.random.split(jax.random.key(0), 4000)))
    assert all(len(set(row)) == 24 for row in draws[:200])
    assert abs((draws[:, 3] < draws[:, 17]).mean() - 0.5) < 0.05


def coalition_market(reward="value_profit"):
    role = Role(
        name="ring",
        count=4,
        cash=1e6,
        lots=50,
        limits=RiskLimits(allow_short=True, max_position_lots=100),
        action=jaxarena.env.actions.OrderSlots(slots=1, reach_bps=500.0, max_lots=20),
        observations=(AuctionBook(),),
        rewards=(jaxarena.env.rewards.Reward.decode(reward, "reward"),),
    )
    free = Financing(borrow_rate=0.0, short_fee=0.0)
    return MarketEnv.build(
        MarketParams(
            process=Gbm(ticks_per_unit=100, volatility=0.0, drift=0.0),
            roles=(role,),
            mechanism=CallAuction(),
            costs=ProportionalFees(fee_bps=1.0),
            financing=free,
            indicators=(),
        )
    )


def test_a_coalition_that_marks_itself_up_gains_nothing_that_closing_out_takes_away():
    """Half of a ring buys from the other half at ever higher prices: the price rises, what they are paid does not."""
    env, params = coalition_market()
    _, state = env.reset(jax.random.key(0), params)
    move = jax.jit(env.step_env)
    opening, paid = int(state.mechanism.book.price_ticks[0]), 0.0
    for t in range(12):
        side = 1.0 if t % 2 else -1.0
        action = jnp.array([[side, side, -1.0], [side, side, -1.0], [-side, -side, -1.0], [-side, -side, -1.0]])
        eager = action.at[:, 1].set(jnp.where(action[:, 0] > 0, 1.0, -0.9))  # sellers ask high, buyers pay more
        _, state, reward, *_ = move(jax.random.key(t), state, {"ring": eager}, params)
        paid += float(reward["ring"].sum())
        assert env.audit(state, params) == (0, [0])
    assert int(state.mechanism.book.price_ticks[0]) > 1.2 * opening
    assert paid < 0.0  # the fees


def test_positions_settle_at_the_value_at_a_terminal_horizon():
    env, params = jaxarena.make("CallAuction-v0")
    roles = tuple(
        role.replace(observations=(*role.observations, jaxarena.env.observations.TimeLeft())) if role.learned else role
        for role in params.roles
    )
    env, params = MarketEnv.build(params.replace(horizon="terminal", episode_length=6, roles=roles))
    _, state = env.reset(jax.random.key(0), params)
    move = jax.jit(env.step_env)
    for t in range(6):
        before = state
        action = env.sample_actions(jax.random.key(t))
        _, state, _, terminated, _, _info = move(jax.random.key(t), state, action, params)
    assert bool(terminated["maker"].all())
    assert np.asarray(before.ledger.agents.lots).any()
    assert not np.asarray(state.ledger.agents.lots).any()
    assert env.audit(state, params) == (0, [0])


def test_zero_intelligence_reaches_the_efficient_allocation():
    """Gode and Sunder's traders in the environment: at least 95 % of the possible gains after 50 auctions."""
    limits, cash = RiskLimits(max_position_lots=1, max_leverage=1.0), 1e6
    common = {"count": 40, "cash": cash, "private_value_bps": 200.0, "limits": limits}
    watcher = Role(name="watcher", cash=1.0, observations=(AuctionBook(),), limits=limits)
    roles = (
        Role(name="buyer", strategy=ZeroIntelligence(side="buy"), **common),
        Role(name="seller", strategy=ZeroIntelligence(side="sell"), lots=1, **common),
        watcher,
    )
    env, params = MarketEnv.build(
        MarketParams(
            process=Gbm(ticks_per_unit=100, volatility=0.0, drift=0.0),
            roles=roles,
            mechanism=CallAuction(),
            costs=ProportionalFees(fee_bps=0.0),
            financing=Financing(borrow_rate=0.0, short_fee=0.0),
            indicators=(),
        )
    )
    markets = Markets(env, 32)
    _, start = jax.jit(markets.reset)(jax.random.key(0), params)
    idle = {"watcher": jnp.zeros((1, 1, 32))}

    def body(state, _):
        state = markets.step(state, idle, params)[1]
        return state, state.market.ledger.agents.lots[:, 0]

    _, lots = jax.jit(lambda state: jax.lax.scan(body, state, None, 50))(start)
    values = np.asarray(jax.vmap(lambda s: env.private_values(s, params), in_axes=-1)(start.market), np.float64)
    capacity = np.ones(values.shape[1])
    held = np.asarray(start.market.ledger.agents.lots)[:, 0].T
    efficiency = [allocative_efficiency(held, np.asarray(lots[t]).T, values, capacity).value for t in (0, 49)]
    assert efficiency[0] < 0.8
    assert efficiency[1] >= 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mechanism": "dealer"}, "limit orders"),
        ({"limits": RiskLimits(max_position_lots=2**29)}, "max_position_lots"),
    ],
)
def test_what_does_not_fit_an_auction_is_refused_when_it_is_built(change, message):
    _, params = jaxarena.make("CallAuction-v0")
    if "mechanism" in change:
        params = params.replace(mechanism=jaxarena.market.dealer.Dealer())
    else:
        params = params.replace(roles=tuple(role.replace(**change) for role in params.roles))
    with pytest.raises(ValueError, match=message):
        MarketEnv.build(params)


def test_a_reward_at_the_hidden_value_needs_one():
    role = Role(name="trader", rewards=(jaxarena.env.rewards.ValueProfit(),))
    with pytest.raises(ValueError, match="hidden value"):
        MarketEnv.build(MarketParams(process=Gbm(), roles=(role,)))


def test_the_page_runs_and_says_what_it_prints(capsys):
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), space)
    assert "101 8 [6, 2, -3, -5]" in capsys.readouterr().out
