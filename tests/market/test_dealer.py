"""The dealer against its documented formula, to the unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.money import int_quanta
from jaxarena.core.types import Bar, Orders, Quote
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import LinearImpact, SquareRootImpact
from jaxarena.market.dealer import Dealer
from jaxarena.market.processes import Gbm
from tests.reference import market as reference

N, A = 4, 2
DEPTH = 4096.0
TICK_VALUES = (1, 5)
KEY = jax.random.key(0)


def quote_of(open_, close=None, previous=None, depth=DEPTH, volatility=0.0):
    open_ = jnp.asarray(open_, jnp.int32)
    close = open_ if close is None else jnp.asarray(close, jnp.int32)
    previous = open_ if previous is None else jnp.asarray(previous, jnp.int32)
    high, low = jnp.maximum(open_, close), jnp.minimum(open_, close)
    bar = Bar(open=open_, high=high, low=low, close=close, volume=jnp.full(open_.shape, 100.0))
    return Quote(
        previous_close=previous,
        bar=bar,
        depth_lots=jnp.full(open_.shape, depth),
        volatility=jnp.full(open_.shape, volatility),
    )


def orders_of(lots, limit=0):
    lots = jnp.asarray(lots, jnp.int32)[..., None]
    return Orders(lots=lots, limit_ticks=jnp.full_like(lots, limit))


def start(dealer):
    return dealer.init(jnp.full(A, 1000, jnp.int32), N, 1)


@jax.jit
def clear(dealer, state, lots, quote):
    orders = Orders(lots=lots[..., None], limit_ticks=jnp.zeros_like(lots)[..., None])
    return dealer.clear(KEY, state, orders, quote, jnp.asarray(TICK_VALUES, jnp.int32))


def as_float(dealer):
    return jax.tree.map(jnp.float32, dealer)


def test_linear_fills_equal_the_formula_over_a_random_sequence():
    rules = reference.Rules(
        half_spread_bps=2.5, permanent=0.25, transient=0.125, decay=0.5, linear_temporary=0.0625, depth=DEPTH,
        tick_values=TICK_VALUES, penalty_bps=(0.0,) * N,
    )  # fmt: skip
    impact = LinearImpact(permanent=0.25, transient=0.125, decay=0.5, linear_temporary=0.0625)
    dealer = as_float(Dealer(half_spread_bps=2.5, impact=impact))
    rng = np.random.default_rng(0)
    for _ in range(20):
        state, oracle = start(dealer), reference.Market(rules, [0] * N, [[0] * A for _ in range(N)])
        for _ in range(8):  # powers of two keep float32 exact for so many halvings
            lots = rng.integers(-300, 300, (N, A)) * (rng.random((N, A)) < 0.8)
            ticks = rng.integers(1, 10**8, A)
            state, fills, _ = clear(dealer, state, jnp.asarray(lots, jnp.int32), quote_of(ticks))
            amounts = oracle.settle(lots.tolist(), [False] * N, ticks.tolist(), ticks.tolist())
            assert int_quanta(fills.cash) == amounts["cash"]
            np.testing.assert_array_equal(fills.bought - fills.sold, lots)
            np.testing.assert_array_equal(fills.taker_lots, np.abs(lots))
            assert state.net_lots.tolist() == oracle.net
            assert state.transient.tolist() == [float(move) for move in oracle.transient]


def test_square_root_fills_equal_the_formula_to_float32_rounding_of_the_rate():
    dealer = as_float(
        Dealer(half_spread_bps=1.0, impact=SquareRootImpact(coefficient=0.7, permanent=0.1, transient=0.2))
    )
    rng, state = np.random.default_rng(1), start(dealer)
    for _ in range(30):
        lots, ticks = rng.integers(-500, 500, (N, A)), rng.integers(10**4, 10**6, A)
        x = lots.sum(0) / DEPTH
        move = 0.1 * np.asarray(state.net_lots) / DEPTH + np.asarray(state.transient, np.float64)
        rate = move + 0.15 * x + 0.7 * 0.25 * np.sign(x) * np.sqrt(np.abs(x)) + np.sign(lots) * 1e-4
        exact = lots * ticks * np.array(TICK_VALUES)
        expected = -(exact + np.ceil(exact * rate))
        state, fills, _ = clear(dealer, state, jnp.asarray(lots, jnp.int32), quote_of(ticks, volatility=0.25))
        assert (np.abs(np.asarray(int_quanta(fills.cash)) - expected) <= 1 + np.abs(exact) * 3e-7).all()


def test_a_hand_computed_fill():
    """Two agents buy 10 and 30 of depth 4096 at 1,000 ticks, half-spread 5 bps, permanent 1: x = 40/4096."""
    dealer = as_float(Dealer(half_spread_bps=5.0, impact=LinearImpact(permanent=1.0)))
    lots = jnp.zeros((N, A), jnp.int32).at[0, 0].set(10).at[1, 0].set(30)
    _, fills, bar = clear(dealer, start(dealer), lots, quote_of([1000, 1000]))
    rate = 0.5 * 40 / 4096 + 5e-4
    assert int_quanta(fills.cash)[0][0] == -(10_000 + int(np.ceil(10_000 * rate)))
    assert int_quanta(fills.cash)[1][0] == -(30_000 + int(np.ceil(30_000 * rate)))
    assert bar.close.tolist() == [round(1000 * (1 + 40 / 4096)), 1000]
    assert bar.open.tolist() == [1000, 1000]
    assert bar.volume.tolist() == [140.0, 100.0]


@pytest.mark.parametrize(("fill", "price"), [("next_open", 1000), ("next_close", 1100), ("same_close", 900)])
def test_the_fill_price_is_the_one_asked_for(fill, price):
    dealer = as_float(Dealer(half_spread_bps=0.0, fill=fill))
    quote = quote_of([1000, 1000], close=[1100, 1100], previous=[900, 900])
    _, fills, _ = clear(dealer, start(dealer), jnp.ones((N, A), jnp.int32), quote)
    assert int_quanta(fills.cash)[0] == [-price, -price * 5]


def test_two_agents_buying_together_each_pay_more_than_one_alone():
    quote = quote_of([10**6, 10**6], volatility=0.2)
    both = jnp.zeros((N, A), jnp.int32).at[:2, 0].set(100)
    for impact in (
        LinearImpact(permanent=0.1),
        LinearImpact(transient=0.1),
        LinearImpact(linear_temporary=0.1),
        SquareRootImpact(),
    ):
        dealer = as_float(Dealer(half_spread_bps=1.0, impact=impact))
        _, alone, _ = clear(dealer, start(dealer), both.at[1].set(0), quote)
        _, together, _ = clear(dealer, start(dealer), both, quote)
        paid_alone, paid = -int_quanta(alone.cash)[0][0], [-int_quanta(together.cash)[n][0] for n in range(2)]
        assert paid[0] == paid[1] > paid_alone > 10**8


def test_impact_vanishes_with_its_coefficients():
    lots = jnp.asarray([[500, 0], [900, -3], [0, 0], [-1, 7]], jnp.int32)
    exact = np.asarray(lots) * 10**6 * np.array(TICK_VALUES)
    for impact in (LinearImpact(), SquareRootImpact(coefficient=0.0)):
        dealer = as_float(Dealer(half_spread_bps=0.0, impact=impact))
        state, fills, bar = clear(dealer, start(dealer), lots, quote_of([10**6, 10**6], volatility=0.5))
        assert int_quanta(fills.cash) == (-exact).tolist()
        assert bar.close.tolist() == [10**6, 10**6]
        np.testing.assert_array_equal(dealer.mid(state, quote_of([10**6, 10**6])), 10**6)
    costs = []
    for coefficient in (1.0, 0.1, 0.01):
        dealer = as_float(Dealer(half_spread_bps=0.0, impact=SquareRootImpact(coefficient=coefficient)))
        _, fills, _ = clear(dealer, start(dealer), lots, quote_of([10**6, 10**6], volatility=0.5))
        costs.append(-int_quanta(fills.cash)[0][0] - int(exact[0, 0]))
    np.testing.assert_allclose(costs, costs[0] * np.array([1.0, 0.1, 0.01]), rtol=1e-4)


def test_net_flow_of_zero_leaves_the_price():
    dealer = as_float(Dealer(half_spread_bps=1.0, impact=SquareRootImpact(permanent=0.3, transient=0.3)))
    lots = jnp.asarray([[500, 10], [-500, -10], [7, 0], [-7, 0]], jnp.int32)
    state, fills, bar = clear(dealer, start(dealer), lots, quote_of([10**6, 10**6], volatility=0.5))
    assert not state.net_lots.any()
    assert not state.transient.any()
    assert bar.close.tolist() == bar.open.tolist() == [10**6, 10**6]
    assert int_quanta(fills.cash)[0][0] == -(500 * 10**6 + int(np.ceil(500e6 * float(np.float32(1e-4)))))


def test_the_permanent_move_returns_exactly_to_zero():
    dealer = as_float(Dealer(half_spread_bps=1.0, impact=LinearImpact(permanent=0.3)))
    state, quote = start(dealer), quote_of([10**6 + 1, 999_983])
    rng, total = np.random.default_rng(3), np.zeros((N, A), int)
    for _ in range(15):
        lots = rng.integers(-700, 700, (N, A))
        total += lots
        state, _, _ = clear(dealer, state, jnp.asarray(lots, jnp.int32), quote)
    assert (dealer.mid(state, quote) != quote.bar.close).all()
    state, _, bar = clear(dealer, state, jnp.asarray(-total, jnp.int32), quote)
    np.testing.assert_array_equal(dealer.mid(state, quote), quote.bar.close)
    np.testing.assert_array_equal(bar.close, quote.bar.close)


def test_a_seller_never_pays_to_be_rid_of_shares():
    """However many are sold at once, and whatever the position would be marked at: limited liability of a share."""
    dealer = as_float(Dealer(half_spread_bps=1.0, impact=LinearImpact(permanent=1.0)))
    state, quote = start(dealer), quote_of([1000, 1000])
    lots = jnp.zeros((N, A), jnp.int32).at[0, 0].set(-3 * 4096).at[1, 0].set(-5)
    _, fills, _ = clear(dealer, state, lots, quote)
    assert np.asarray(int_quanta(fills.cash))[:2, 0].min() >= 0
    assert float(dealer.closing_prices(state, -lots, quote)[0, 0]) >= 0.0
    assert float(dealer.price_range(state, Orders.market(lots), quote)[0][0]) >= 0.0


def test_transient_moves_decay():
    dealer = as_float(Dealer(impact=LinearImpact(transient=0.5, decay=0.5)))
    state, quote = start(dealer), quote_of([1000, 1000])
    state, _, _ = clear(dealer, state, jnp.zeros((N, A), jnp.int32).at[0, 0].set(1024), quote)
    moves = [float(state.transient[0])]
    for _ in range(3):
        state, _, _ = clear(dealer, state, jnp.zeros((N, A), jnp.int32), quote)
        moves.append(float(state.transient[0]))
    assert moves == [0.0625, 0.03125, 0.015625, 0.0078125]


def test_limit_orders_are_rejected_and_counted():
    dealer = as_float(Dealer())
    orders = orders_of([[5, 0], [0, 0], [1, -1], [0, 3]], limit=900)
    _, fills, _ = dealer.clear(KEY, start(dealer), orders, quote_of([1000, 1000]), jnp.asarray(TICK_VALUES, jnp.int32))
    assert fills.orders_rejected.tolist() == [1, 0, 2, 1]
    assert not (fills.bought | fills.sold).any()
    assert int_quanta(fills.cash) == [[0, 0]] * N


def test_several_orders_of_one_agent_are_added():
    dealer = as_float(Dealer(half_spread_bps=0.0))
    lots = jnp.zeros((N, A, 3), jnp.int32).at[0, 0].set(jnp.asarray([5, -2, 4]))
    orders = Orders(lots=lots, limit_ticks=jnp.zeros_like(lots))
    _, fills, _ = dealer.clear(KEY, start(dealer), orders, quote_of([1000, 1000]), jnp.asarray(TICK_VALUES, jnp.int32))
    assert int_quanta(fills.cash)[0] == [-7000, 0]


price_range = jax.jit(lambda dealer, state, lots, quote: dealer.price_range(state, Orders.market(lots), quote))


@pytest.mark.parametrize(
    "impact", [LinearImpact(permanent=0.2, transient=0.3, linear_temporary=0.1), SquareRootImpact(permanent=0.1)]
)
def test_no_fill_lies_outside_the_price_range_whatever_is_trimmed(impact):
    dealer = as_float(Dealer(half_spread_bps=4.0, impact=impact))
    rng, state, quote = np.random.default_rng(5), start(dealer), quote_of([10**6, 2 * 10**6], volatility=0.3)
    for _ in range(25):
        wanted = rng.integers(-300, 300, (N, A))
        lots = np.trunc(wanted * rng.random((N, A))).astype(int)
        lowest, mid, highest = (
            np.asarray(p, np.float64) for p in price_range(dealer, state, jnp.asarray(wanted, jnp.int32), quote)
        )
        assert (lowest <= mid).all()
        assert (mid <= highest).all()
        state, fills, _ = clear(dealer, state, jnp.asarray(lots, jnp.int32), quote)
        with np.errstate(invalid="ignore"):
            price = -np.asarray(int_quanta(fills.cash)) / (lots * np.array(TICK_VALUES))
        assert (price[lots != 0] <= np.broadcast_to(highest * (1 + 1e-6) + 1, (N, A))[lots != 0]).all()
        assert (price[lots != 0] >= np.broadcast_to(lowest * (1 - 1e-6) - 1, (N, A))[lots != 0]).all()


def refused(build, word):
    """Whether the host refuses, with a message that holds `word`."""
    try:
        build()
    except ValueError as error:
        return word in str(error)
    return False


def test_the_price_range_holds_for_as_many_lots_as_validation_admits():
    """200 agents that each turn 10 million lots around order 4e9 lots in all, more than 32 bits count.

    Either such a market is refused when it is built, or its price range is right.
    """
    crowd = MarketParams(
        process=Gbm(), roles=(Role(name="crowd", count=200, observations=(Portfolio(),)),), indicators=()
    )
    dealer = as_float(Dealer(impact=LinearImpact(permanent=0.1)))
    lots = jnp.full((200, 1), 20_000_000, jnp.int32)
    state, quote = dealer.init(jnp.full(1, 1000, jnp.int32), 200, 1), quote_of([1000], depth=1e9)
    lowest, mid, highest = (float(p[0]) for p in dealer.price_range(state, Orders.market(lots), quote))
    right = np.allclose([lowest, mid, highest], [1000 * (1 - 1e-4), 1000.0, 1000 * (1.2 + 1e-4)], rtol=1e-5)
    assert right or refused(lambda: MarketEnv.build(crowd), "max_position_lots")


def test_closing_prices_are_what_closing_alone_pays():
    dealer = as_float(
        Dealer(half_spread_bps=4.0, impact=SquareRootImpact(permanent=0.1, transient=0.2, coefficient=0.4))
    )
    quote = quote_of([10**6, 10**6], volatility=0.3)
    state, _, _ = clear(dealer, start(dealer), jnp.full((N, A), 40, jnp.int32), quote)
    positions = jnp.asarray([[40, -70]], jnp.int32)
    closing = dealer.closing_prices(state, positions, quote)
    only = jnp.zeros((N, A), jnp.int32).at[0].set(-positions[0])
    _, fills, _ = clear(dealer, state, only, quote)
    got = np.asarray(int_quanta(fills.cash))[0] / (np.asarray(positions[0]) * np.array(TICK_VALUES))
    np.testing.assert_allclose(closing[0], got, rtol=1e-6)


def test_parameters_without_meaning_are_refused():
    assert refused(Dealer(half_spread_bps=-1.0).validate, "half_spread_bps")
    assert refused(Dealer(impact=LinearImpact(permanent=-1.0)).validate, "permanent")
    dealer, quote = as_float(Dealer()), quote_of([1, 1])
    bad = Orders(lots=jnp.zeros((N, A, 1), jnp.int32), limit_ticks=jnp.zeros((N, A, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"orders\.limit_ticks"):
        dealer.clear(KEY, start(dealer), bad, quote, jnp.asarray(TICK_VALUES, jnp.int32))
