"""No round trip earns money from impact: random schedules through the dealer, gradient ascent on its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.money import int_quanta
from jaxarena.core.types import Bar, Orders, Quote
from jaxarena.market.costs import LinearImpact, SquareRootImpact
from jaxarena.market.dealer import Dealer
from tests.reference.market import dealer_cost

T, S = 10, 2000
PRICE, DEPTH, VOLATILITY = 1_000_000, 10_000.0, 0.25
FLAT = jnp.full(1, PRICE, jnp.int32)
QUOTE = Quote(
    previous_close=FLAT,
    bar=Bar(open=FLAT, high=FLAT, low=FLAT, close=FLAT, volume=jnp.ones(1)),
    depth_lots=jnp.full(1, DEPTH),
    volatility=jnp.full(1, VOLATILITY),
)


@jax.jit
def play(dealers, schedules):
    """Cash of each trade, `[S, T, N, 1]`, and what closing the whole coalition would give after each step, `[S, T]`."""

    def one(dealer, schedule):
        def step(state, lots):
            orders = Orders(lots=lots[:, None, None], limit_ticks=jnp.zeros_like(lots)[:, None, None])
            state, fills, _ = dealer.clear(jax.random.key(0), state, orders, QUOTE, jnp.ones(1, jnp.int32))
            return state, (fills.cash, dealer.closing_prices(state, state.net_lots, QUOTE)[0] * state.net_lots[0])

        return jax.lax.scan(step, dealer.init(FLAT, schedule.shape[1], 1), schedule)[1]

    return jax.vmap(one)(dealers, schedules)


def random_impact(kind, rng, size):
    """Coefficients from none to severe, and exactly zero now and then."""

    def draw(high):
        return jnp.asarray(high * rng.random(size) * (rng.random(size) < 0.7), jnp.float32)

    own = {"linear_temporary": draw(0.3)} if kind is LinearImpact else {"coefficient": draw(1.0)}
    decay = jnp.asarray(rng.choice([0.0, 0.5, 0.9, 1.0], size), jnp.float32)
    return kind(permanent=draw(0.5), transient=draw(0.5), decay=decay, **own)


def random_schedules(rng, n_agents, size):
    """Whole lots that end flat: bursts, ramps and noise."""
    lots = rng.normal(size=(S, T, n_agents)) * size * rng.choice([0.01, 0.3, 1.0], (S, 1, 1))
    lots *= rng.random((S, T, n_agents)) < rng.choice([0.2, 1.0], (S, 1, 1))
    lots[S // 2 :, : T // 2] = np.abs(lots[S // 2 :, : T // 2])  # pump, then dump
    lots = lots.astype(np.int32)
    lots[:, -1] -= lots.sum(1)
    return lots


@pytest.mark.parametrize("n_agents", [1, 3])
@pytest.mark.parametrize("kind", [LinearImpact, SquareRootImpact])
def test_no_random_round_trip_earns(kind, n_agents):
    rng = np.random.default_rng(n_agents)
    dealers = Dealer(half_spread_bps=jnp.zeros(S), impact=random_impact(kind, rng, S))
    schedules = random_schedules(rng, n_agents, 1500)
    cash, closing = play(dealers, jnp.asarray(schedules))
    cash = np.asarray(int_quanta(cash)).sum((2, 3))
    assert (schedules.sum(1) == 0).all()
    turnover = np.abs(schedules).sum((1, 2)) * PRICE
    assert (cash.sum(1) <= 1e-7 * turnover).all(), "float32 rates are right to 6e-8 of the value"
    assert (cash.sum(1) < -1e-4 * turnover).mean() > 0.3
    marked = cash.cumsum(1) + np.asarray(closing, np.float64)
    assert (marked <= 1e-6 * turnover[:, None] + 1).all(), "nor does the marked equity of all, closed together"


def test_no_round_trip_earns_when_the_move_is_clipped():
    """Flows of several times the depth, where the lasting move stands at its bounds."""
    rng = np.random.default_rng(9)
    dealers = Dealer(half_spread_bps=jnp.zeros(S), impact=random_impact(LinearImpact, rng, S))
    schedules = random_schedules(rng, 1, 60_000)
    cash, _ = play(dealers, jnp.asarray(schedules))
    turnover = np.abs(schedules).sum((1, 2)) * PRICE
    assert (np.asarray(int_quanta(cash)).sum((1, 2, 3)) <= 1e-6 * turnover).all()


def hunt(impact, decay, root, n_agents, own_share=0.5):
    """Best profit that gradient ascent finds over round trips, from many starts."""
    starts = jax.random.normal(jax.random.key(n_agents), (64, 8, n_agents))

    def flat(x):
        """A round trip of bounded size."""
        x = x - x.mean(0)
        return x / jnp.sqrt(1e-6 + (x**2).sum()) * jnp.minimum(1.0, jnp.sqrt(1e-6 + (x**2).sum()))

    def profit(x):
        trades = flat(x)
        missing = (own_share - 0.5) * (impact[0] + impact[1]) * (trades.sum(1) ** 2).sum()
        return -dealer_cost(trades, impact, root=root, decay=decay, xp=jnp) - missing

    def climb(x, _):
        slope = jax.grad(profit)(x)
        return x + 0.05 * slope / (1e-6 + jnp.linalg.norm(slope)), profit(x)

    return float(jax.jit(lambda xs: jax.vmap(lambda x: jax.lax.scan(climb, x, None, length=150)[1])(xs).max())(starts))


@pytest.mark.parametrize("n_agents", [1, 3])
@pytest.mark.parametrize(
    ("impact", "decay", "root"),
    [((0.3, 0.0, 0.0), 0.5, 0.0), ((0.1, 0.4, 0.05), 0.8, 0.0), ((0.1, 0.4, 0.0), 0.5, 0.2)],
)
def test_gradient_ascent_finds_no_profit(impact, decay, root, n_agents):
    assert hunt(impact, decay, root, n_agents) <= 1e-6


def test_gradient_ascent_finds_the_money_pump_of_fills_that_do_not_pay_for_their_own_impact():
    """The hunter can shoot: without the half of the own move, buying and selling back earns."""
    assert hunt((0.3, 0.0, 0.0), 0.5, 0.0, 1, own_share=0.0) > 0.01


def test_the_formula_is_the_dealers():
    rng = np.random.default_rng(4)
    schedules = random_schedules(rng, 2, 1500)
    full = jnp.full(S, 1.0)
    impact = SquareRootImpact(permanent=0.2 * full, transient=0.3 * full, decay=0.6 * full, coefficient=0.4 * full)
    cash, _ = play(Dealer(half_spread_bps=5.0 * full, impact=impact), jnp.asarray(schedules))
    paid = -np.asarray(int_quanta(cash)).sum((1, 2, 3)) / (PRICE * DEPTH)
    expected = [dealer_cost(s / DEPTH, (0.2, 0.3, 0.0), 5e-4, 0.4 * VOLATILITY, 0.6) for s in schedules[:200]]
    np.testing.assert_allclose(paid[:200], expected, atol=1e-6)
