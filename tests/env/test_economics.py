"""True of any market: foresight pays, noise pays its costs, flow moves the price, fills fill where told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena.agents import BuyAndHold, Random, Strategy, toward_weights
from jaxarena.core.money import int_quanta
from jaxarena.core.tree import as_arrays
from jaxarena.core.types import Orders
from jaxarena.env.causality import assert_causal
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.rewards import Profit
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import Financing, LinearImpact, ProportionalFees, SquareRootImpact
from jaxarena.market.dealer import Dealer
from jaxarena.market.history import HistoricalReplay
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

NOTHING = np.float32(np.nan)  # not finite means: do nothing
FREE_CARRY = Financing(borrow_rate=0.0, deposit_rate=0.0, short_fee=0.0)


# -- foresight --------------------------------------------------------------------------------------


class _Crystal(HistoricalReplay):
    """A replay that announces what it must not know: the return from the next open to the one after it."""

    def signal(self, state):
        opens = self._recorded.ticks[:, 0].astype(jnp.float32)
        return opens[state.index + 2] / opens[state.index + 1] - 1.0


class _Clairvoyant(Strategy):
    """Everything in what will rise the most, nothing when all will fall."""

    def act(self, key, market, account):
        best = (market.signal == market.signal.max()) & (market.signal > 0.0)
        return Orders.market(toward_weights(best.astype(jnp.float32), market, account))


def clairvoyant_market():
    _, params = jaxarena.make("StockReplay-v0")
    old = params.process
    process = _Crystal(
        recording=old.recording,
        periods_per_year=old.periods_per_year,
        liquidity_window=old.liquidity_window,
        symbols=old.symbols,
        ticks_per_unit=old.ticks_per_unit,
    )
    cast = (
        Role(name="learner", observations=(Portfolio(),)),
        Role(name="seer", strategy=_Clairvoyant(), observations=()),
        Role(name="holder", strategy=BuyAndHold(), observations=()),
    )
    return MarketEnv.build(params.replace(process=process, roles=cast, indicators=()))


def test_a_clairvoyant_beats_buy_and_hold_and_the_causality_check_finds_it():
    env, params = clairvoyant_market()

    @jax.jit
    def equities(params, key):
        _, state = env.reset(key, params)
        idle = {"learner": jnp.zeros((1, 3))}
        keys = jax.random.split(key, 100)
        state, _ = jax.lax.scan(lambda s, k: (env.step_env(k, s, idle, params)[1], None), state, keys)
        return state.accounts.equity / state.accounts.initial_equity

    growth = np.array([equities(params, jax.random.key(seed)) for seed in range(8)])
    np.testing.assert_array_equal(growth[:, 0], 1.0)
    assert (growth[:, 1] > growth[:, 2]).all()
    assert np.log(growth[:, 1]).mean() > np.log(growth[:, 2]).mean() + 0.5
    with pytest.raises(AssertionError, match=r"\['seen'\]\['orders'\].lots at step \d+ depends on bars after 6"):
        assert_causal(env, params, jax.random.key(0), steps=10, at=6)


# -- one market for noise, pairs and impact ---------------------------------------------------------


STEPS, MARKETS = 40, 96
CASH = 1_000_000.0
ANY = RiskLimits(max_leverage=1.0, allow_short=True)
IMPACT = SquareRootImpact(permanent=0.1, transient=0.2, decay=0.7, coefficient=1.0)
FREE_IMPACT = SquareRootImpact(permanent=0.0, transient=0.0, decay=0.7, coefficient=0.0)


def market(noise=0.0, impact=FREE_IMPACT, half_spread_bps=0.0, fee_bps=0.0, volatility=0.3):
    """All of these numbers are traced: one program serves all tests."""
    return MarketParams(
        process=Gbm(drift=0.0, volatility=volatility, mean_volume=100_000.0),
        roles=(
            Role(name="pair", count=2, cash=CASH, limits=ANY, observations=(Portfolio(),), rewards=(Profit(),)),
            Role(
                name="noise",
                count=4,
                cash=CASH,
                limits=ANY,
                strategy=Random(trade_probability=noise),
                observations=(),
            ),
        ),
        mechanism=Dealer(half_spread_bps=half_spread_bps, impact=impact),
        costs=ProportionalFees(fee_bps=fee_bps),
        financing=FREE_CARRY,
        indicators=(),
        episode_length=STEPS,
    )


@functools.cache
def environment():
    return MarketEnv.build(market())[0]


@jax.jit
def _play(params, key, actions):
    env = environment()

    def one(key):
        _, start = env.reset(jax.random.fold_in(key, 0), params)

        def body(carry, action):
            state, t = carry
            _, after, reward, *_, info = env.step_env(
                jax.random.fold_in(key, t), state, {"pair": action[:, None]}, params
            )
            seen = {"reward": reward["pair"], "info": info, "mid": after.mid[0], "cash": after.ledger.agents.cash}
            return (after, t + 1), seen | {"lots": after.ledger.agents.lots[..., 0], "close": after.close[0]}

        (last, _), rows = jax.lax.scan(body, (start, 1), actions)
        return rows | {"total_cost": last.statistics.cost, "traded": last.statistics.traded}

    return jax.vmap(one)(jax.random.split(key, MARKETS))


def play(actions=(), **changes):
    """`[E, T, ...]` of a market in which the pair does `actions` first and then nothing."""
    environment()  # built on the host, before it is traced
    plan = np.full((STEPS, 2), NOTHING, np.float32)
    plan[: len(actions)] = np.reshape(actions, (-1, 2))
    return jax.tree.map(np.asarray, _play(as_arrays(market(**changes)), jax.random.key(11), plan))


def quanta(record):
    return np.asarray(int_quanta(record["cash"]), np.int64)


def test_noise_loses_its_costs_when_there_is_nothing_to_win():
    """Gains before costs are a sum of position times price change, so a martingale: their mean is zero."""
    record = play(noise=0.5, half_spread_bps=10.0, fee_bps=5.0)
    start = CASH * 10_000
    gain = (record["info"]["equity_mid"][:, -1, 2:] / start - 1.0).mean(1)
    cost = (record["total_cost"][:, 2:] / start).mean(1)
    error = (gain + cost).std(ddof=1) / np.sqrt(MARKETS)
    assert abs((gain + cost).mean()) < 4 * error
    assert error < 0.3 * cost.mean()  # the interval is narrow enough to tell the costs from nothing
    assert gain.mean() < -2 * error
    turnover = (record["traded"][:, 2:] / start).mean(1)
    np.testing.assert_allclose(cost, 15e-4 * turnover, rtol=2e-3)
    assert turnover.mean() > 3.0


def test_long_profit_is_minus_short_profit_before_costs():
    record = play([[0.6, -0.6]])
    assert (record["lots"][:, -1, 0] > 5_000).all()
    np.testing.assert_array_equal(record["lots"][:, -1, 0], -record["lots"][:, -1, 1])
    profit = record["reward"].sum(1, dtype=float)
    assert np.abs(profit).mean() > 0.01
    np.testing.assert_allclose(profit[:, 0], -profit[:, 1], atol=2e-6)
    value = record["lots"] * record["close"][..., None].astype(np.int64)
    exact = (quanta(record) + value - int(CASH * 10_000))[..., :2]
    assert (exact[..., 0] == -exact[..., 1]).all()


def test_long_and_short_pay_the_same_costs():
    """With spread and fees both lose the same from a common position, to the rounding of charges."""
    record = play([[0.6, -0.6], [0.0, 0.0]], half_spread_bps=10.0, fee_bps=5.0, volatility=0.0)
    paid = int(CASH * 10_000) - quanta(record)[:, -1, :2]
    value = record["lots"][:, 0, 0] * 1e6
    np.testing.assert_allclose(paid, np.repeat(2 * 15e-4 * value, 2).reshape(-1, 2), rtol=2e-3)
    np.testing.assert_allclose(record["reward"].sum(1), -paid / (CASH * 10_000), atol=1e-6)


def price_paid(record):
    """Average price of the fills of the first step in ticks, `[E, 2]`; a market that starts at 1,000,000."""
    return (CASH * 10_000 - quanta(record)[:, 0, :2]) / np.where(
        record["lots"][:, 0, :2] == 0, 1, record["lots"][:, 0, :2]
    )


def test_two_who_trade_the_same_way_move_the_price_against_each_other():
    alone = play([[0.5, NOTHING]], impact=IMPACT)
    together = play([[0.5, 0.5]], impact=IMPACT)
    against = play([[0.5, -0.5]], impact=IMPACT)
    lots = alone["lots"][:, 0, 0]
    assert (together["lots"][:, 0, 0] == lots).all()
    x, sigma = lots / 100_000.0, 0.3 / np.sqrt(252.0)
    for record, flow in ((alone, x), (together, 2 * x), (against, 0 * x)):
        paid = 1e6 * (1 + 0.5 * (0.1 + 0.2) * flow + sigma * np.sqrt(flow))
        np.testing.assert_allclose(price_paid(record)[:, 0], paid, rtol=1e-6)
        moved = record["mid"][:, 0] / record["close"][:, 0] - 1.0
        np.testing.assert_allclose(moved, (0.1 + 0.7 * 0.2) * flow, atol=1e-6)
    np.testing.assert_allclose(price_paid(together)[:, 0], price_paid(together)[:, 1], rtol=1e-9)
    # Selling together is as bad for the sellers, to the same fraction of the price.
    sold = play([[-0.5, -0.5]], impact=IMPACT)
    np.testing.assert_allclose(price_paid(sold) + price_paid(together), 2e6, rtol=1e-6)


def test_impact_fades_to_nothing_with_its_coefficients():
    costs = []
    for size in (1.0, 0.5, 0.1, 0.0):
        impact = SquareRootImpact(permanent=0.1 * size, transient=0.2 * size, decay=0.7, coefficient=size)
        costs.append((price_paid(play([[0.5, 0.5]], impact=impact))[:, 0] - 1e6).mean())
    assert costs[3] == 0.0
    np.testing.assert_allclose(np.divide(costs[:3], costs[0]), [1.0, 0.5, 0.1], rtol=1e-3)
    free, alone = play([[0.5, 0.5], [-0.5, 0.3]]), play([[0.5, NOTHING], [-0.5, NOTHING]])
    np.testing.assert_array_equal(quanta(free)[..., 0], quanta(alone)[..., 0])  # to the quantum
    np.testing.assert_array_equal(free["mid"], alone["mid"])


# -- the planted signal -----------------------------------------------------------------------------


def test_following_the_planted_signal_earns_its_strength_and_opposing_it_loses_it():
    """Agents of one market share its noise, so the interval is over markets."""
    env, params = jaxarena.make("PlantedSignal-v0")
    count, steps = env.num_agents("trader"), 48
    column = env.observation_layout("trader")["signal"].start
    follows = jnp.arange(count) < count // 2

    @jax.jit
    @jax.vmap
    def play(key):
        obs, state = env.reset(key, params)

        def step(carry, t):
            obs, state = carry
            rises = obs["trader"][:, column] > 0
            action = {"trader": jnp.where(rises == follows, 2, 0).astype(jnp.int32)}
            obs, state, reward, *_ = env.step_env(jax.random.fold_in(key, t), state, action, params)
            return (obs, state), reward["trader"]

        return jax.lax.scan(step, (obs, state), jnp.arange(steps))[1]

    earned = np.asarray(play(jax.random.split(jax.random.key(1), 192)))
    strength, spread = 0.005, 0.16 / np.sqrt(252)
    means = earned.mean(1)  # [E, N] per step
    error = spread / np.sqrt(192 * steps)
    assert means[:, 0].mean() == pytest.approx(strength, abs=4 * error)
    assert means[:, -1].mean() == pytest.approx(-strength, abs=4 * error)
    np.testing.assert_allclose(earned[..., 0], -earned[..., -1], atol=2e-6)
    assert means[:, 0].std(ddof=1) == pytest.approx(spread / np.sqrt(steps), rel=0.25)


# -- where fills fill -------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["next_open", "next_close", "same_close"])
def test_fills_pay_the_bar_they_name(fill):
    rng = np.random.default_rng(3)
    length, warm = 4, 3
    close = [30.0, 70.0] * np.exp(rng.normal(0, 0.1, (length + warm + 1, 2)).cumsum(0))
    open_ = close * np.exp(rng.normal(0, 0.1, close.shape))
    bars = (open_, np.maximum(open_, close), np.minimum(open_, close), close, np.full(close.shape, 1e5))
    role = Role(name="trader", count=2, limits=ANY, cash=1_000.0, observations=(Portfolio(),))
    env, params = MarketEnv.build(
        MarketParams(
            process=HistoricalReplay(liquidity_window=warm).with_bars(("X", "Y"), *bars),
            roles=(role,),
            mechanism=Dealer(half_spread_bps=0.0, fill=fill, impact=LinearImpact()),
            costs=ProportionalFees(fee_bps=0.0),
            financing=FREE_CARRY,
            indicators=(),
            episode_length=length,
        )
    )
    plan = np.array([[[0.3, 0.1], [-0.2, 0.4]], [[0.1, -0.2], [0.2, -0.4]], [[0.0, 0.5], [0.2, 0.4]]], np.float32)

    @jax.jit
    def run(params, plan):
        def body(state, action):
            after, *_, info = env.transition(jax.random.key(1), state, {"trader": action}, params)
            return after, (after.ledger.agents.cash, info["lots"])

        return jax.lax.scan(body, env.first_state(jax.random.key(0), params), plan)[1]

    cash, lots = run(params, plan)
    cash, lots = np.asarray(int_quanta(cash), np.int64), np.asarray(lots)
    ticks = np.asarray(params.process.recording.ticks, np.int64)
    rows = {"next_open": ticks[warm + 1 :, 0], "next_close": ticks[warm + 1 :, 3], "same_close": ticks[warm:, 3]}
    expected = 1_000 * params.quanta_per_unit - (lots * rows[fill][:3, None]).sum(-1).cumsum(0)
    np.testing.assert_array_equal(cash, expected)
    assert (lots != 0).any(axis=(1, 2)).all()
