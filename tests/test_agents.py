"""Scripted strategies against orders computed by hand, and beside learned agents in one market."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.agents import BuyAndHold, EqualWeight, Hold, Learned, MeanReversion, Momentum, Random, toward_weights
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import Financing, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.history import HistoricalReplay
from jaxarena.market.indicators import Window
from jaxarena.market.margin import RiskLimits
from jaxarena.market.views import AccountView, MarketView

EQUITY = 10_000.0  # quanta


def market(closes, step=5):
    """A market that has closed at `closes`, `[W, A]`."""
    closes = jnp.asarray(closes, jnp.float32)
    return MarketView(
        window=Window(bars=jnp.repeat(closes[:, None], 5, axis=1), count=jnp.int32(len(closes))),
        features=(),
        mid=closes[-1],
        depth_lots=jnp.full(closes[-1].shape, 1e6),
        flow=jnp.zeros(closes[-1].shape),
        signal=None,
        step=jnp.int32(step),
        time_left=jnp.float32(0.5),
    )


def accounts(positions, equity=EQUITY, allow_short=True):
    """One row per list of positions; `equity` and `allow_short` are one for all or one for each."""
    positions = jnp.asarray(positions, jnp.int32)
    n = positions.shape[0]
    limits = jax.tree.map(lambda x: jnp.full((n,), x), RiskLimits())
    equity = jnp.asarray(np.broadcast_to(np.float32(equity), (n,)))
    return AccountView(
        positions=positions,
        cash=equity,
        equity=equity,
        initial_equity=jnp.full((n,), EQUITY),
        peak_equity=equity,
        entry_price=jnp.ones(positions.shape, jnp.float32),
        limits=limits.replace(allow_short=jnp.asarray(np.broadcast_to(allow_short, (n,)))),
    )


@functools.cache
def compiled(kind):
    return jax.jit(kind.act)


def market_lots(got):
    """Lots of orders that are one market order per agent and asset."""
    assert got.lots.dtype == got.limit_ticks.dtype == jnp.int32
    assert got.lots.shape == got.limit_ticks.shape
    assert got.lots.shape[2:] == (1,)
    assert not got.limit_ticks.any()
    return np.asarray(got.lots[..., 0]).tolist()


def orders(strategy, view, who, seed=0):
    return market_lots(compiled(type(strategy))(strategy, jax.random.key(seed), view, who))


TWO = [[100.0, 50.0]]


def test_hold_never_trades():
    assert orders(Hold(), market(TWO, step=0), accounts([[5, -3], [0, 0]])) == [[0, 0], [0, 0]]


def test_buy_and_hold_buys_once_at_the_first_step():
    who = accounts([[0, 0], [10, 0]], equity=[EQUITY, 4_000.0])
    assert orders(BuyAndHold(), market(TWO, step=0), who) == [[50, 100], [10, 40]]
    assert orders(BuyAndHold(), market(TWO, step=1), who) == [[0, 0], [0, 0]]


def test_equal_weight_rebalances_what_is_off_by_more_than_the_tolerance():
    strategy = EqualWeight(exposure=0.8, tolerance=0.05)
    positions = [[0, 0], [40, 80], [44, 91], [36, 60], [46, 71]]
    # Targets are 40 and 80 lots; a weight of 0.05 is 5 and 10 lots.
    expected = [[40, 80], [0, 0], [0, -11], [0, 20], [-6, 0]]
    assert orders(strategy, market(TWO), accounts(positions)) == expected


def rising(*returns, period=4):
    """Closes of `period + 1` bars that end at 100 with these returns over the period."""
    last = np.full(len(returns), 100.0)
    path = np.linspace(last / (1.0 + np.array(returns)), last, period + 1)
    path[1:-1] = np.random.default_rng(0).uniform(10, 200, (period - 1, len(returns)))  # what is between is ignored
    return path


def test_momentum_holds_what_has_risen_in_proportion():
    strategy = Momentum(period=4, threshold=0.1, tolerance=0.02)
    assert strategy.lookback == 5
    view = market(rising(0.051, -0.2))
    who = accounts([[0, 0], [0, 0], [25, -10], [24, -49]], allow_short=[True, False, True, True])
    # Just over half of an asset's share of 50 lots for +5.1 %, the whole of it short for -20 %.
    assert orders(strategy, view, who) == [[25, -50], [25, 0], [0, -40], [0, 0]]
    assert orders(strategy, market(rising(0.051, -0.2)[-5:] * 2.0), who)[0] == [12, -25]


def test_momentum_without_shorts_sells_what_falls_and_no_more():
    strategy = Momentum(period=4, threshold=0.1, exposure=0.5)
    who = accounts([[20, 20], [0, 0]], allow_short=False)
    assert orders(strategy, market(rising(0.3, -0.3)), who) == [[5, -20], [25, 0]]


def test_momentum_ignores_bars_before_its_period():
    longer = np.concatenate([[[1.0, 1e4]] * 3, rising(0.051, -0.2)])
    strategy = Momentum(period=4, threshold=0.1)
    assert orders(strategy, market(longer), accounts([[0, 0]])) == [[25, -50]]


def test_mean_reversion_buys_below_the_mean_and_sells_above_it():
    closes = np.array([[500.0, 1.0], [100.0, 100.0], [110.0, 80.0], [110.0, 60.0], [100.0, 80.0]])
    strategy = MeanReversion(period=4, threshold=0.1, tolerance=0.0)
    # The means of four bars are 105 and 80: 4.76 % below, and exactly at it.
    view = market(closes)
    who = accounts([[0, 0], [0, 30], [0, 0]], allow_short=[True, True, False])
    assert orders(strategy, view, who) == [[23, 0], [23, -30], [23, 0]]
    above = market([[1.0, 1.0], [90.0, 50.0], [90.0, 50.0], [90.0, 50.0], [110.0, 51.0]])  # 15.8 % and 1.49 % above
    who = accounts([[0, 0], [10, 0]], allow_short=[True, False])
    assert orders(strategy, above, who) == [[-45, -14], [-10, 0]]


@pytest.mark.parametrize("strategy", [Momentum(period=4), MeanReversion(period=4)])
def test_without_movement_trend_rules_close_what_they_hold(strategy):
    assert orders(strategy, market([[100.0, 50.0]] * 5), accounts([[0, 0], [10, -20]])) == [[0, 0], [-10, 20]]


def test_random_draws_uniform_weights_within_its_limits():
    n = 4_000
    short = np.arange(n) % 2 == 0
    view, who = market(TWO), accounts(np.zeros((n, 2)), allow_short=short)
    strategy = Random(trade_probability=0.25, max_weight=0.8)
    lots = np.array(orders(strategy, view, who))
    weights = lots * [100.0, 50.0] / EQUITY
    traded = lots != 0
    assert abs(traded.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / (2 * n)) + 0.01  # a few weights round to nothing
    assert np.abs(weights).max() <= 0.4
    assert weights[~short].min() >= 0.0
    for rows, low in ((short, -0.4), (~short, 0.0)):
        drawn = weights[rows][traded[rows]]
        assert abs(drawn.mean() - (low + 0.4) / 2) < 4 * (0.4 - low) / np.sqrt(12 * drawn.size) + 0.005
        assert abs(drawn.std() - (0.4 - low) / np.sqrt(12)) < 0.02
    assert abs(np.corrcoef(lots[:, 0], lots[:, 1])[0, 1]) < 0.08
    assert orders(strategy, view, who, seed=0) == lots.tolist()
    assert orders(strategy, view, who, seed=1) != lots.tolist()


def test_random_trades_never_or_always_as_told():
    who = accounts([[7, -7]] * 50)
    assert not np.any(orders(Random(trade_probability=0.0), market(TWO), who))
    assert np.all(orders(Random(trade_probability=1.0), market(TWO), who))


@pytest.mark.parametrize(
    "strategy",
    [Hold(), BuyAndHold(), EqualWeight(), Momentum(period=4), MeanReversion(period=4)],
    ids=lambda s: s.kind(),
)
def test_rules_without_chance_treat_agents_and_assets_alike(strategy):
    rng = np.random.default_rng(5)
    closes, positions = rng.uniform(20, 200, (5, 3)), rng.integers(-30, 30, (6, 3))
    equity, short = rng.uniform(5_000, 20_000, 6).astype(np.float32), np.arange(6) % 2 == 0
    agents, assets = rng.permutation(6), rng.permutation(3)
    plain = np.array(orders(strategy, market(closes, step=0), accounts(positions, equity, short)))
    moved = orders(
        strategy,
        market(closes[:, assets], step=0),
        accounts(positions[agents][:, assets], equity[agents], short[agents]),
    )
    assert np.abs(plain[agents][:, assets] - moved).max() <= 1  # a sum in another order may round a lot away
    np.testing.assert_array_equal(
        plain[agents],
        orders(strategy, market(closes, step=0), accounts(positions[agents], equity[agents], short[agents])),
    )


def test_toward_weights_rounds_toward_zero_and_survives_ruin():
    weights = jnp.array([[0.333, -0.333], [1.0, 0.0]])
    got = toward_weights(weights, market(TWO), accounts([[0, 0], [3, 4]], equity=[EQUITY, -5.0]))
    assert np.asarray(got).tolist() == [[33, -66], [-3, -4]]  # of a thousandth of the start: no whole lot


def test_a_learned_role_has_no_rule():
    with pytest.raises(TypeError, match="acts through the action"):
        Learned().act(jax.random.key(0), market(TWO), accounts([[0, 0]]))


def test_blocks_that_a_scripted_role_never_sees_do_not_lengthen_the_window():
    assert Role(name="idle", strategy=Hold()).lookback == 1
    assert Role(name="trend", strategy=Momentum(period=4)).lookback == 5
    assert Role(name="learner").lookback == 9


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (Momentum(period=0), "period"),
        (Momentum(threshold=0.0), "threshold"),
        (MeanReversion(period=-3), "period"),
        (MeanReversion(threshold=-0.1), "threshold"),
        (EqualWeight(tolerance=-1.0), "tolerance"),
        (EqualWeight(exposure=float("nan")), "exposure"),
        (Random(trade_probability=1.5), "trade_probability"),
        (Random(max_weight=-1.0), "max_weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind(),
)
def test_rules_without_meaning_are_refused(strategy, name):
    """A threshold of zero divides by it; a period of zero compares a price with itself."""
    with pytest.raises(ValueError, match=rf"roles\.odd\.strategy\.{name}"):
        Role(name="odd", strategy=strategy).validate()


# -- beside learned agents --------------------------------------------------------------------------


LENGTH, WARM = 8, 6
CAST = {
    "hold": Hold(),
    "buyer": BuyAndHold(),
    "equal": EqualWeight(tolerance=0.01),
    "trend": Momentum(period=4, threshold=0.05),
    "contrarian": MeanReversion(period=4, threshold=0.02),
    "noise": Random(trade_probability=0.7),
}


@functools.cache
def played():
    """Two learned roles with every scripted one between them; what each was filled and held, `[T, N, A]`."""
    rng = np.random.default_rng(2)
    close = [40.0, 90.0] * np.exp(rng.normal(0, 0.04, (LENGTH + WARM + 1, 2)).cumsum(0))
    open_ = np.concatenate([close[:1], close[:-1]])  # no gaps: what is decided is what can be paid
    bars = (open_, np.maximum(open_, close), np.minimum(open_, close), close, np.full(close.shape, 1e6))
    limits = RiskLimits(max_leverage=2.0, allow_short=True)
    common = {"limits": limits, "cash": 100_000.0, "count": 2}
    scripted = [Role(name=name, strategy=rule, observations=(), **common) for name, rule in CAST.items()]
    learned = [Role(name=name, observations=(Portfolio(),), **common) for name in ("first", "second")]
    env, params = MarketEnv.build(
        MarketParams(
            process=HistoricalReplay(liquidity_window=WARM).with_bars(("X", "Y"), *bars),
            roles=(learned[0], *scripted, learned[1]),
            mechanism=Dealer(half_spread_bps=0.0),
            costs=ProportionalFees(fee_bps=0.0),
            financing=Financing(borrow_rate=0.0, deposit_rate=0.0, short_fee=0.0),
            indicators=(),
            episode_length=LENGTH,
        )
    )
    actions = {"first": np.full((LENGTH, 2, 2), 0.25, np.float32), "second": np.zeros((LENGTH, 2, 2), np.float32)}

    @jax.jit
    def run(params, key, actions):
        def body(carry, step):
            t, action = step
            step_key = jax.random.fold_in(key, t)
            after, reward, *_, info = env.transition(step_key, carry, action, params)
            told = {
                "info": info,
                "reward": reward,
                "position": carry.ledger.agents.lots,
                "equity": carry.accounts.equity,
            }
            return after, told

        return jax.lax.scan(body, env.first_state(key, params), (jnp.arange(LENGTH), actions))[1]

    told = run(params, jax.random.key(0), actions)
    return env, params, jax.tree.map(np.asarray, told)


def rows_of(name):
    """Lots filled, position and equity before each step, of both agents of a role."""
    env, _, told = played()
    rows = env.agent_slice(name)
    return told["info"]["lots"][:, rows], told["position"][:, rows], told["equity"][:, rows]


@pytest.mark.parametrize("name", [name for name in CAST if name not in ("noise", "hold")])
def test_scripted_roles_trade_their_rule_in_a_market(name):
    _, params, _ = played()
    ticks = np.asarray(params.process.recording.ticks)
    lots, positions, equity = rows_of(name)
    for t in range(LENGTH):
        view = market(ticks[WARM + t - 4 : WARM + t + 1, 3], step=t)
        who = accounts(positions[t], equity[t])
        who = who.replace(initial_equity=jnp.asarray(equity[0]))
        assert lots[t].tolist() == orders(CAST[name], view, who), t
    assert lots.any()
    np.testing.assert_array_equal(lots[:, 0], lots[:, 1])  # two agents with one rule and one account do the same


def test_learned_roles_stand_apart_from_the_scripted_ones():
    env, params, told = played()
    assert env.learned_roles == ("first", "second")
    assert set(told["reward"]) == set(told["info"]["acted"]) == {"first", "second"}
    assert [env.agent_slice(name).start for name in ("first", *CAST, "second")] == list(range(0, 16, 2))
    assert not rows_of("hold")[0].any()
    assert not rows_of("second")[0].any()
    lots, positions, equity = rows_of("first")
    mid = np.asarray(params.process.recording.ticks, float)[WARM : WARM + LENGTH, 3]
    target = np.trunc(2.0 * 0.25 * equity[..., None] / mid[:, None])  # a leverage of two
    assert np.abs(lots + positions - target).max() <= 1
    noise = rows_of("noise")[0]
    assert (noise[:, 0] != noise[:, 1]).any()  # every agent draws for itself
    assert noise.any(axis=(1, 2)).sum() > LENGTH // 2
