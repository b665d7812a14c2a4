"""Strategies that quote against orders computed by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxarena.agents.quoters import Fundamentalist, MarketMaker, NoiseTrader, TrendFollower, ZeroIntelligence
from jaxarena.core.types import BookView
from jaxarena.market.indicators import Window
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS
from jaxarena.market.views import AccountView, MarketView

MANY = 20_000
LARGEST = 100  # lots of a position
CALM = [10_000.0] * 65


def market(closes=CALM, reference=None):
    """A market of one asset that has closed at `closes`, oldest first, with the last one as the reference."""
    closes = jnp.asarray(closes, jnp.float32)[:, None]
    nothing = jnp.zeros(1, jnp.int32)
    return MarketView(
        window=Window(bars=jnp.repeat(closes[:, None], 5, axis=1), count=jnp.int32(len(closes))),
        features=(),
        mid=closes[-1],
        depth_lots=jnp.ones(1),
        flow=jnp.zeros(1),
        signal=None,
        step=jnp.int32(5),
        time_left=jnp.float32(0.5),
        book=BookView(
            price_ticks=jnp.asarray([closes[-1, 0] if reference is None else reference], jnp.int32),
            volume_lots=nothing,
            imbalance_lots=nothing,
            best_bid_ticks=nothing,
            best_ask_ticks=nothing,
            bid_lots=nothing,
            ask_lots=nothing,
            half_spread_ticks=jnp.ones(1),
        ),
    )


def accounts(positions, traits=None, signals=None, private_value=None):
    """One agent per position; one trait each, or the same for all."""
    positions = jnp.asarray(positions, jnp.int32)[:, None]
    n = len(positions)
    money = jnp.full((n,), 1e6)
    limits = jax.tree.map(lambda x: jnp.full((n,), x), RiskLimits(max_position_lots=LARGEST))
    return AccountView(
        positions=positions,
        cash=money,
        equity=money,
        initial_equity=money,
        peak_equity=money,
        entry_price=jnp.ones((n, 1)),
        limits=limits,
        traits=None if traits is None else jnp.broadcast_to(jnp.asarray(traits, jnp.float32), (n,))[:, None],
        signal_ticks=None if signals is None else jnp.broadcast_to(jnp.asarray(signals, jnp.float32), (n,))[:, None],
        private_value=None if private_value is None else jnp.broadcast_to(jnp.float32(private_value), (n,)),
    )


@functools.cache
def compiled(kind):
    return jax.jit(kind.act)


def orders(strategy, view, who, seed=0):
    """Lots and limits of the only asset, `[n, K]` each."""
    got = compiled(type(strategy))(strategy, jax.random.key(seed), view, who)
    assert got.lots.dtype == got.limit_ticks.dtype == jnp.int32
    assert got.lots.shape == got.limit_ticks.shape == (len(who.positions), 1, strategy.n_slots)
    return np.asarray(got.lots)[:, 0], np.asarray(got.limit_ticks)[:, 0]


def single(strategy, view, who, seed=0):
    """As `orders`, of the only slot: pairs of lots and limit."""
    lots, limits = orders(strategy, view, who, seed)
    return [list(pair) for pair in zip(lots[:, 0].tolist(), limits[:, 0].tolist(), strict=True)]


# -- zero intelligence ------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "low", "high"), [("buy", 9_500, 10_200), ("sell", 10_200, 10_500)])
def test_zero_intelligence_offers_uniformly_and_never_at_a_loss(side, low, high):
    strategy = ZeroIntelligence(side=side, unit_lots=2)
    lots, limits = orders(strategy, market(), accounts([0] * MANY, private_value=0.02))
    assert set(lots[:, 0].tolist()) == {2 if side == "buy" else 0}
    assert low <= limits.min() <= low + 3
    assert high - 3 <= limits.max() <= high
    assert limits.mean() == pytest.approx((low + high) / 2, abs=(high - low) / 50)


def test_zero_intelligence_trades_its_unit_once():
    buyer, seller = ZeroIntelligence(side="buy", unit_lots=3), ZeroIntelligence(side="sell", unit_lots=3)
    held = accounts([0, 1, 3, 4], private_value=0.0)
    assert orders(buyer, market(), held)[0][:, 0].tolist() == [3, 2, 0, 0]
    assert orders(seller, market(), held)[0][:, 0].tolist() == [0, -1, -3, -4]


def test_zero_intelligence_stays_within_its_range_whatever_its_value():
    rich = accounts([0] * 100, private_value=0.3)
    assert orders(ZeroIntelligence(side="buy"), market(), rich)[1].max() <= 10_500
    assert set(orders(ZeroIntelligence(side="sell"), market(), rich)[1][:, 0].tolist()) == {10_500}


# -- noise traders ----------------------------------------------------------------------------------


def trades_of(strategy, view, who, seed=0):
    lots, limits = orders(strategy, view, who, seed)
    came = lots[:, 0] != 0
    return came, lots[came, 0], limits[came, 0]


def test_noise_trader_in_a_calm_market_comes_at_its_lowest_activity():
    strategy = NoiseTrader(trade_probability=0.4, reach_bps=100.0, lowest=0.5)
    came, lots, limits = trades_of(strategy, market(), accounts([0] * MANY, traits=0.1))
    assert came.mean() == pytest.approx(0.2, abs=0.01)
    assert (lots > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (limits.min(), limits.max()) == (9_950, 10_050)  # half of a hundred basis points
    assert np.corrcoef(lots > 0, limits)[0, 1] == pytest.approx(0.0, abs=0.06)


def test_noise_trader_sizes_follow_the_poisson_law():
    strategy = NoiseTrader(trade_probability=1.0, lowest=1.0, mean_lots=3.0)
    came, lots, _ = trades_of(strategy, market(), accounts([0] * MANY, traits=0.1))
    assert came.all()
    sizes = np.abs(lots) - 1
    expected = scipy.stats.poisson(2.0).pmf(np.arange(8)) * MANY
    counted = np.bincount(sizes, minlength=8)
    assert (
        scipy.stats.chisquare([*counted[:7], counted[7:].sum()], [*expected[:7], MANY - expected[:7].sum()])[1] > 0.01
    )
    assert sizes.min() == 0


def test_noise_trader_reads_its_own_memory():
    closes = [10_000.0] * 64 + [10_064.0]  # moved by 64 bps in the last bar: means of 64, 16, 4 and 1 bps
    strategy = NoiseTrader(trade_probability=0.02, reach_bps=10.0, calm_bps=2.0, lowest=0.25, highest=20.0)
    for trait, activity in ((0.1, 20.0), (0.3, 8.0), (0.6, 2.0), (0.9, 0.5)):
        came, _, limits = trades_of(strategy, market(closes), accounts([0] * MANY, traits=trait))
        assert came.mean() == pytest.approx(0.02 * activity, rel=0.15)
        reach = 10_064.0 * 1e-3 * activity
        assert 0.95 * reach <= np.abs(limits - 10_064).max() <= reach + 1


@pytest.mark.parametrize(("position", "share"), [(-LARGEST, 0.9), (0, 0.5), (LARGEST // 2, 0.3), (LARGEST, 0.1)])
def test_noise_trader_leans_toward_an_empty_position(position, share):
    strategy = NoiseTrader(trade_probability=1.0, lowest=1.0, pull=0.8)
    _, lots, _ = trades_of(strategy, market(), accounts([position] * MANY, traits=0.1))
    assert (lots > 0).mean() == pytest.approx(share, abs=0.02)


def test_noise_trader_depends_on_the_key_alone():
    who = accounts([0] * 50, traits=0.1)
    assert single(NoiseTrader(), market(), who, seed=1) == single(NoiseTrader(), market(), who, seed=1)
    assert single(NoiseTrader(), market(), who, seed=1) != single(NoiseTrader(), market(), who, seed=2)


# -- fundamentalists --------------------------------------------------------------------------------


def test_fundamentalist_wants_a_position_by_the_gap_and_expects_its_share_to_close():
    strategy = Fundamentalist(full_bps=200.0, max_lots=40, order_lots=100, longest=16.0)
    who = accounts([0, 0, 10, 25, 0], traits=[0.0, 0.5, 0.0, 0.0, 1.0], signals=[10_100, 10_100, 10_100, 10_100, 9_600])
    # gaps of +1 % want half of 40 lots, -4 % wants -40; horizons of 1, 4 and 16 auctions
    assert single(strategy, market(), who) == [[20, 10_100], [20, 10_025], [10, 10_100], [-5, 10_100], [-40, 9_975]]


def test_fundamentalist_sends_no_more_than_an_order_at_once():
    strategy = Fundamentalist(full_bps=200.0, max_lots=40, order_lots=4)
    who = accounts([0, 18, 0], traits=0.0, signals=[10_100, 10_100, 9_900])
    assert single(strategy, market(), who) == [[4, 10_100], [2, 10_100], [-4, 9_900]]


def test_fundamentalist_unwinds_when_the_gap_has_closed():
    assert single(Fundamentalist(order_lots=4), market(), accounts([7], traits=0.5, signals=10_000)) == [[-4, 10_000]]


# -- trend followers --------------------------------------------------------------------------------


def test_trend_follower_holds_what_its_memory_says():
    closes = [10_000.0] * 61 + [12_500.0] * 3 + [10_000.0]  # -20 % in a bar, and nothing over 4, 16 or 64
    strategy = TrendFollower(full_bps=4_000.0, max_lots=20, order_lots=50, share=0.5)
    who = accounts([0, 0, 3, 0], traits=[0.1, 0.3, 0.6, 0.9])
    assert single(strategy, market(closes), who) == [[-10, 9_000], [0, 10_000], [-3, 10_000], [0, 10_000]]


def test_trend_follower_measures_returns_by_the_root_of_time():
    closes = [10_000.0] * 49 + [10_400.0] * 16  # +4 % over 16 bars or 64, and nothing over 4 or 1
    strategy = TrendFollower(full_bps=200.0, max_lots=20, order_lots=50, share=0.5)
    who = accounts([0, 0, 0, 0], traits=[0.1, 0.3, 0.6, 0.9])
    assert single(strategy, market(closes), who) == [[0, 10_400], [0, 10_400], [10, 10_452], [5, 10_426]]


def test_trend_follower_sends_no_more_than_an_order_at_once_and_never_beyond_its_largest_position():
    closes = [10_000.0] * 64 + [11_000.0]
    strategy = TrendFollower(full_bps=100.0, max_lots=20, order_lots=3, share=0.1)
    assert single(strategy, market(closes), accounts([0, 18, 20], traits=0.1)) == [
        [3, 11_110],
        [2, 11_110],
        [0, 11_000],
    ]


# -- market makers ----------------------------------------------------------------------------------


def quotes(strategy, position, trait=0.0, closes=CALM):
    lots, limits = orders(strategy, market(closes), accounts([position], traits=trait))
    return lots[0].tolist(), limits[0].tolist()


def test_market_maker_quotes_both_sides_at_every_level():
    strategy = MarketMaker(levels=2, half_spread_bps=10.0, size_lots=5)
    assert quotes(strategy, 0) == ([5, 5, -5, -5], [9_990, 9_980, 10_010, 10_020])


def test_market_maker_rounds_away_from_the_reference():
    assert quotes(MarketMaker(half_spread_bps=10.5), 0)[1] == [9_989, 10_011]


def test_market_maker_scales_its_spread_by_its_own_trait():
    assert quotes(MarketMaker(half_spread_bps=10.2, spread=1.0), 0, trait=0.5)[1] == [9_984, 10_016]  # 15.3 bps
    assert quotes(MarketMaker(half_spread_bps=10.2, spread=0.0), 0, trait=0.5)[1] == [9_989, 10_011]


def test_market_maker_widens_when_prices_have_moved():
    closes = [10_000.0] * 49 + [10_160.0, 10_000.0] * 8  # 16 moves of about 159 bps
    moved = (8 * 160 / 10_000 + 8 * 160 / 10_160) / 16
    half = 10_000 * (10e-4 + 0.5 * moved)  # 89.4
    bid, ask = quotes(MarketMaker(half_spread_bps=10.0, volatility_share=0.5), 0, closes=closes)[1]
    assert (bid, ask) == (int(np.floor(10_000 - half)), int(np.ceil(10_000 + half)))


def test_market_maker_shifts_against_its_inventory():
    strategy = MarketMaker(half_spread_bps=10.5, skew=2.0, max_lots=100, size_lots=5)
    assert quotes(strategy, 50)[1] == [9_979, 10_000]  # the middle lies 10.5 lower
    assert quotes(strategy, -50)[1] == [10_000, 10_021]


def test_market_maker_stops_at_its_largest_inventory():
    strategy = MarketMaker(max_lots=100, size_lots=5)
    assert quotes(strategy, 98)[0] == [2, -5]
    assert quotes(strategy, 120)[0] == [0, -5]
    assert quotes(strategy, -100)[0] == [5, 0]


# -- all of them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [NoiseTrader(), Fundamentalist(), TrendFollower(), MarketMaker(levels=3)])
@pytest.mark.parametrize("reference", [MIN_TICKS, MAX_TICKS])
def test_limits_stay_in_the_range_of_prices(strategy, reference):
    closes = [max(reference * 0.9, 1.0)] * 64 + [float(reference)]
    who = accounts([0] * 64, traits=np.linspace(0.01, 0.99, 64), signals=reference * np.linspace(0.5, 1.5, 64))
    _, limits = orders(strategy, market(closes, reference), who)
    assert limits.min() >= MIN_TICKS
    assert limits.max() <= MAX_TICKS


@pytest.mark.parametrize(
    ("strategy", "who", "message"),
    [
        (ZeroIntelligence(), accounts([0]), "private_value_bps"),
        (Fundamentalist(), accounts([0], traits=0.5), "signal_noise_bps"),
        (MarketMaker(), accounts([0]), "traits"),
    ],
)
def test_what_a_strategy_lacks_is_named(strategy, who, message):
    with pytest.raises(ValueError, match=message):
        strategy.act(jax.random.key(0), market(), who)


def test_a_market_without_a_book_is_refused():
    with pytest.raises(ValueError, match="call_auction"):
        NoiseTrader().act(jax.random.key(0), market().replace(book=None), accounts([0], traits=0.5))


@pytest.mark.parametrize(
    ("strategy", "field"),
    [
        (ZeroIntelligence(range_bps=0.0), "range_bps"),
        (NoiseTrader(trade_probability=1.5), "trade_probability"),
        (NoiseTrader(mean_lots=9.0), "mean_lots"),
        (Fundamentalist(longest=0.5), "longest"),
        (TrendFollower(full_bps=0.0), "full_bps"),
        (MarketMaker(levels=0), "levels"),
    ],
)
def test_parameters_without_meaning_are_refused(strategy, field):
    with pytest.raises(ValueError, match=f"here.{field}"):
        strategy.validate("here")
