import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats

from jaxarena.experiment import quality
from jaxarena.experiment.metrics import Estimate
from jaxarena.experiment.quality import Allocation, Bootstrap, Estimates, Tape

NAN = math.nan
FEW = Bootstrap(draws=200)


def walks(markets=8, steps=500, deviation=0.01, seed=0):
    returns = np.random.default_rng(seed).normal(0.0, deviation, (markets, steps))
    return 100.0 * np.exp(np.cumsum(returns, axis=1))


def garch(markets, steps, seed=0, news=0.1, memory=0.88):
    """GARCH(1,1) of Bollerslev (1986) with unconditional variance 1e-4, by the slow and obvious loop."""
    noise = np.random.default_rng(seed).normal(size=(markets, steps))
    returns, variance = np.zeros((markets, steps)), np.full(markets, 1e-4)
    for step in range(steps):
        returns[:, step] = np.sqrt(variance) * noise[:, step]
        variance = 1e-4 * (1 - news - memory) + news * returns[:, step] ** 2 + memory * variance
    return returns


def tape(markets=4, steps=60, seed=0):
    rng = np.random.default_rng(seed)
    price = walks(markets, steps, seed=seed)
    lots = [rng.integers(0, 20, (markets, steps)) for _ in range(4)]
    return Tape(
        price=price,
        value=price * np.exp(rng.normal(0, 0.01, price.shape)),
        best_bid=price * 0.999,
        best_ask=price * 1.001,
        bid_lots=lots[0],
        ask_lots=lots[1],
        volume=lots[2],
        signed_flow=lots[3] - 10,
    )


def test_pricing_error_by_hand():
    value = np.full((2, 2), 100.0)
    price = value * np.exp([[0.03, -0.04], [0.01, 0.01]])
    estimate = quality.pricing_error(price, value)
    assert estimate.value == pytest.approx(1e4 * (math.sqrt((9e-4 + 16e-4) / 2) + 0.01) / 2)
    assert estimate.low == pytest.approx(100.0)
    assert estimate.high == pytest.approx(1e4 * math.sqrt(12.5e-4))
    assert quality.pricing_error(value, value) == Estimate(0.0, 0.0, 0.0)


def test_steps_without_price_or_value_are_left_out():
    price = np.array([[0.0, 101.0, NAN, 100.0, math.inf]])
    value = np.array([[100.0, 100.0, 100.0, NAN, 100.0]])
    assert quality.pricing_error(price, value).value == pytest.approx(1e4 * math.log(1.01))


def test_quoted_spread_by_hand():
    bid = np.array([[99.0, 0.0, 98.0, 50.0]])
    ask = np.array([[101.0, 101.0, 102.0, 0.0]])
    assert quality.quoted_spread(bid, ask) == Estimate(
        pytest.approx((200.0 + 400.0) / 2), reason="an interval needs several markets"
    )
    assert quality.quoted_spread(bid[:, 1:2], ask[:, 1:2]) == Estimate(None, reason="no step has both a bid and an ask")


def test_depth_counts_empty_sides():
    assert quality.depth(np.array([[4, 0], [2, 2]]), np.array([[6, 2], [2, NAN]])).value == pytest.approx((3 + 2) / 2)


def test_kyle_lambda_recovers_known_impact():
    flow = np.random.default_rng(1).integers(-50, 51, (3, 100)).astype(float)
    price = 100 * np.exp(np.cumsum(1e-4 * (3.0 + 0.7 * flow), axis=1))
    assert quality.kyle_lambda(price, flow) == Estimate(*[pytest.approx(0.7, rel=1e-9)] * 3)


def test_kyle_lambda_in_noise():
    """Its interval covers the true impact about as often as it says; the slopes are scipy's."""
    hits, trials = 0, 60
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        flow = rng.integers(-50, 51, (30, 80)).astype(float)
        price = 100 * np.exp(np.cumsum(1e-4 * (0.7 * flow + rng.normal(0, 10, flow.shape)), axis=1))
        estimate = quality.kyle_lambda(price, flow, FEW)
        hits += estimate.low < 0.7 < estimate.high
    assert hits >= 0.85 * trials
    changes = 1e4 * np.diff(np.log(price), axis=1)
    slopes = [scipy.stats.linregress(x, y).slope for x, y in zip(flow[:, 1:], changes, strict=True)]
    assert estimate.value == pytest.approx(np.mean(slopes), rel=1e-9)


def test_kyle_lambda_uses_the_flow_that_made_the_price():
    flow = np.array([[9.0, 1.0, -1.0, 2.0, 0.0]])
    price = 100 * np.exp(np.cumsum(1e-4 * 5 * flow, axis=1))
    assert quality.kyle_lambda(price, flow).value == pytest.approx(5.0)
    assert quality.kyle_lambda(price, np.roll(flow, 1, axis=1)).value != pytest.approx(5.0, abs=1.0)


def test_markets_without_flow_are_left_out():
    flow = np.array([[0.0, 1.0, -1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    price = 100 * np.exp(np.cumsum(1e-4 * 2 * flow, axis=1))
    assert quality.kyle_lambda(price, flow).value == pytest.approx(2.0)
    reason = "no market has order flow that varies over three steps with returns"
    assert quality.kyle_lambda(price[1:], flow[1:]) == Estimate(None, reason=reason)
    assert quality.kyle_lambda(price[:, :3], flow[:, :3]).value is None  # a line through two points always fits


def test_amihud_by_hand():
    price = np.array([[100.0, 110.0, 99.0, 99.0]])
    traded = np.array([[5.0, 1e6, 0.0, 2e6]])
    assert quality.amihud(price, traded).value == pytest.approx((math.log(1.1) + 0.0) / 2)
    assert quality.amihud(price, 0 * traded).reason == "no step with a return has volume"


def test_volatility_by_hand():
    price = 100 * np.exp(np.cumsum([[0.0, 0.01, -0.01, 0.01, -0.01]], axis=1))
    assert quality.volatility(price).value == pytest.approx(100 * math.sqrt(4 / 3))
    assert quality.volatility(np.full((2, 5), 7.3)) == Estimate(0.0, 0.0, 0.0)
    assert quality.volatility(1e6 * 1.0001 ** np.arange(300.0)[None]).value == 0.0
    assert quality.volatility(price[:, :2]) == Estimate(None, reason="no market has two returns")


def test_missing_prices_cost_the_returns_on_both_sides():
    price = walks(1, 40)
    holed = np.where(np.arange(40) == 20, NAN, price)
    returns = np.diff(np.log(price[0]))
    kept = np.delete(returns, [19, 20])
    assert quality.volatility(holed).value == pytest.approx(1e4 * kept.std(ddof=1))


def every_allocation(total, capacity):
    return [lots for lots in itertools.product(*(range(int(room) + 1) for room in capacity)) if sum(lots) == total]


@pytest.mark.parametrize("seed", range(8))
def test_efficiency_is_brute_force(seed):
    rng = np.random.default_rng(seed)
    capacity = rng.integers(1, 4, (5, 4))
    start = rng.integers(0, capacity + 1)
    worth = rng.integers(-5, 20, (5, 4)).astype(float)
    end = np.array([rng.choice(every_allocation(row.sum(), room)) for row, room in zip(start, capacity, strict=True)])
    shares = []
    for market in range(5):
        values = [np.dot(lots, worth[market]) for lots in every_allocation(start[market].sum(), capacity[market])]
        before = start[market] @ worth[market]
        if max(values) > before:
            shares.append((end[market] @ worth[market] - before) / (max(values) - before))
    assert quality.allocative_efficiency(start, end, worth, capacity).value == pytest.approx(np.mean(shares))


def test_efficiency_by_hand():
    """Two sellers hold one lot each; one of the two trades that should happen did, and the better of them."""
    start, worth = np.array([[1, 1, 0, 0]]), np.array([[10.0, 20.0, 40.0, 25.0]])
    efficiency = [
        quality.allocative_efficiency(start, np.array([end]), worth, np.ones(4)).value
        for end in ([1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1])
    ]
    assert efficiency == pytest.approx([0.0, 30 / 35, 1.0])
    # the lot went from 20 to 10 while all of it could have gone to 40
    worse = quality.allocative_efficiency(
        np.array([[0, 1, 0]]), np.array([[1, 0, 0]]), worth[:, :3], np.full(3, math.inf)
    )
    assert worse.value == pytest.approx((10 - 20) / (40 - 20))


def test_efficiency_leaves_out_markets_without_gains():
    start, worth = np.array([[0, 1], [1, 0]]), np.array([[1 / 3, 0.7], [0.1, 0.3]])
    end = np.array([[0, 1], [0, 1]])
    assert quality.allocative_efficiency(start, end, worth, np.ones(2)).value == pytest.approx(1.0)
    reason = "no market had gains from trade to realise"
    assert quality.allocative_efficiency(start[:1], end[:1], worth[:1], np.ones(2)) == Estimate(None, reason=reason)
    nobody = np.zeros((2, 0))
    assert quality.allocative_efficiency(nobody, nobody, nobody, np.zeros(0)) == Estimate(None, reason=reason)


@pytest.mark.parametrize(
    ("start", "end", "worth", "capacity", "message"),
    [
        ([[2.0, 0.0]], [[1.0, 1.0]], [[1.0, 2.0]], [1.0, 1.0], "start_lots: expected 0 <= lots"),
        ([[1.0, 0.0]], [[2.0, -1.0]], [[1.0, 2.0]], [3.0, 3.0], "end_lots: expected 0 <= lots"),
        ([[1.0, 0.0]], [[NAN, 1.0]], [[1.0, 2.0]], [3.0, 3.0], "end_lots: expected 0 <= lots"),
        ([[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 2.0]], [3.0, 3.0], "total of start_lots"),
        ([[1.0, 0.0]], [[1.0, 0.0]], [[1.0, NAN]], [3.0, 3.0], "private_value: expected finite"),
        ([[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 2.0]], [3.0], "capacity_lots: expected shape"),
        ([[1.0, 0.0]], [[1.0]], [[1.0, 2.0]], [3.0, 3.0], "equal shapes"),
    ],
)
def test_refuses_what_is_no_reallocation(start, end, worth, capacity, message):
    with pytest.raises(ValueError, match=message):
        quality.allocative_efficiency(*(np.array(each) for each in (start, end, worth, capacity)))


def auctions(markets=6, steps=30, roles=4, seed=0):
    """Lots of both sides with equal totals: every traded lot gets a buyer and a seller by chance."""
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 12, (markets, steps))
    sides = [rng.multinomial(volume, np.full(roles, 1 / roles)).astype(float) for _ in range(2)]
    return *sides, walks(markets, steps, seed=seed), walks(markets, steps, seed=seed + 1)


@pytest.mark.parametrize("at_the_end", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_who_pays_whom_is_antisymmetric_and_sums_to_profits(seed, at_the_end):
    bought, sold, price, value = auctions(seed=seed)
    worth = value[:, -1] if at_the_end else value
    gain = quality.who_pays_whom(bought, sold, price, worth)
    edge = (worth[:, None] if at_the_end else worth) - price
    profit = ((bought - sold) * edge[:, :, None]).sum(axis=1).mean(axis=0)
    assert np.abs(profit).max() > 1.0
    np.testing.assert_allclose(gain.value.sum(axis=1), profit, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(gain.value, -gain.value.T)
    np.testing.assert_allclose(gain.low, -gain.high.T, rtol=1e-9, atol=1e-9)
    off = ~np.eye(4, dtype=bool)
    assert (gain.low < gain.value)[off].all()
    assert (gain.value < gain.high)[off].all()


def test_who_pays_whom_by_hand():
    """Role 0 buys 3 lots at 10; 1 sells 1, 2 sells 2; later 2 sells 4 at 13 to 0 and 1 alike; lots are worth 12."""
    bought, sold = np.array([[[3, 0, 0], [2, 2, 0]]]), np.array([[[0, 1, 2], [0, 0, 4]]])
    gain = quality.who_pays_whom(bought, sold, np.array([[10.0, 13.0]]), np.array([12.0]))
    np.testing.assert_allclose(gain.value, [[0, 2, 4 - 2], [-2, 0, -2], [-4 + 2, 2, 0]], atol=1e-12)
    assert gain.reason == "an interval needs several markets"
    assert np.isnan(gain.low).all()


def test_who_pays_whom_inside_a_role_nothing_is_gained():
    lots = np.full((2, 3, 1), 5.0)
    assert quality.who_pays_whom(lots, lots, np.full((2, 3), 10.0), np.array([12.0, 8.0])).value == 0.0


def test_who_pays_whom_for_what_became_worthless():
    bought, sold = np.array([[[2, 0]]]), np.array([[[0, 2]]])
    gain = quality.who_pays_whom(bought, sold, np.array([[10.0]]), np.array([0.0]))
    np.testing.assert_array_equal(gain.value, [[0.0, -20.0], [20.0, 0.0]])


def test_who_pays_whom_needs_prices_of_trades_only():
    bought, sold, price, value = auctions()
    quiet = bought.sum(axis=2) == 0
    assert quiet.any()
    whole = quality.who_pays_whom(bought, sold, price, value)
    np.testing.assert_array_equal(
        quality.who_pays_whom(bought, sold, np.where(quiet, NAN, price), value).value, whole.value
    )
    first_lacks = value.copy()
    first_lacks[0] = NAN
    rest = quality.who_pays_whom(bought[1:], sold[1:], price[1:], value[1:]).value
    np.testing.assert_allclose(quality.who_pays_whom(bought, sold, price, first_lacks).value, rest)
    none = quality.who_pays_whom(bought, sold, price, np.full(6, NAN))
    assert np.isnan(none.value).all()
    assert none.as_dict()["value"] == [[None] * 4] * 4
    assert none.reason == "no market has a price and a value for every trade"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, s, p, v: (b, s + 1, p, v), "every role that traded"),
        (lambda b, s, p, v: (b - 20, s - 20, p, v), "both sides, not the net"),
        (lambda b, s, p, v: (b[:, :, 0], s[:, :, 0], p, v), "bought, sold: expected shape"),
        (lambda b, s, p, v: (b, s, p[:, 1:], v), "bought, sold: expected shape"),
        (lambda b, s, p, v: (b, s, p, v[:, 1:]), "value_end: expected shape"),
    ],
)
def test_refuses_what_is_no_record_of_auctions(change, message):
    with pytest.raises(ValueError, match=message):
        quality.who_pays_whom(*change(*auctions()))


def test_a_gaussian_random_walk_has_no_facts():
    returns = np.random.default_rng(2).normal(0, 0.01, (64, 2000))
    volume = np.random.default_rng(3).integers(0, 100, returns.shape)
    facts = quality.stylised_facts(returns, volume, lags=40)
    for estimate in (facts.excess_kurtosis, facts.volume_volatility, *facts.aggregated_kurtosis.values()):
        assert estimate.low - 0.02 < 0.0 < estimate.high + 0.02
    assert abs(facts.excess_kurtosis.value) < 0.05
    assert np.abs(facts.autocorrelation.value).max() < 4 / math.sqrt(64 * 2000)
    assert np.abs(facts.absolute_autocorrelation.value).max() < 4 / math.sqrt(64 * 2000)
    covered = (facts.autocorrelation.low < 0) & (facts.autocorrelation.high > 0)
    assert covered.mean() > 0.8
    assert facts.decay_exponent == Estimate(None, reason="too few lags with positive autocorrelation for a fit")


def test_garch_clusters():
    returns = garch(32, 4000)
    facts = quality.stylised_facts(returns, returns**2, lags=40)
    assert facts.excess_kurtosis.low > 0.3
    assert np.abs(facts.autocorrelation.value).max() < 0.02
    assert facts.absolute_autocorrelation.low[:20].min() > 0.02
    assert facts.absolute_autocorrelation.value[0] > facts.absolute_autocorrelation.value[-1]
    assert 0 < facts.decay_exponent.low < facts.decay_exponent.value < facts.decay_exponent.high < 2
    assert facts.volume_volatility.low > 0.5


def test_tails_of_independent_returns_thin_with_the_horizon():
    """Kurtosis of a sum of h independent returns is that of one over h; 6 / (8 - 4) for Student's t with 8."""
    returns = np.random.default_rng(4).standard_t(8, (64, 6000))
    kurtosis = quality.stylised_facts(returns, lags=1).aggregated_kurtosis
    assert kurtosis[1].value == pytest.approx(1.5, abs=0.25)
    assert kurtosis[5].value == pytest.approx(1.5 / 5, abs=0.1)
    assert kurtosis[20].value == pytest.approx(1.5 / 20, abs=0.1)


def test_kurtosis_is_scipys_and_free_of_scale():
    returns = np.random.default_rng(5).standard_t(4, (3, 50)) * np.array([[1e-4], [1.0], [1e3]])
    value = quality.stylised_facts(returns, lags=1).excess_kurtosis.value
    assert value == pytest.approx(scipy.stats.kurtosis(returns, axis=1, bias=False).mean(), rel=1e-9)


def slow_autocorrelation(row, lag):
    """Of one market, pair by pair, missing ones skipped."""
    known = row[np.isfinite(row)]
    pairs = [
        (a - known.mean()) * (b - known.mean())
        for a, b in zip(row[:-lag], row[lag:], strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    return np.mean(pairs) / known.var()


@pytest.mark.parametrize("holes", [False, True])
def test_autocorrelation_is_the_slow_one(holes):
    rng = np.random.default_rng(6)
    returns = rng.normal(size=(3, 70)).cumsum(axis=1)
    if holes:
        returns[rng.random(returns.shape) < 0.2] = NAN
    facts = quality.stylised_facts(returns, lags=25)
    for values, ours in ((returns, facts.autocorrelation), (np.abs(returns), facts.absolute_autocorrelation)):
        slow = [np.mean([slow_autocorrelation(row, lag) for row in values]) for lag in range(1, 26)]
        np.testing.assert_allclose(ours.value, slow, rtol=1e-9, atol=1e-12)


def test_autocorrelation_by_hand():
    """Returns that alternate: -1 at odd lags, 1 at even ones; their size is constant and has none."""
    facts = quality.stylised_facts(np.tile([0.01, -0.01], (2, 10)), lags=12)
    np.testing.assert_allclose(facts.autocorrelation.value[:10], [-1, 1] * 5)
    assert np.isnan(facts.autocorrelation.value[10:]).all()  # nine pairs and fewer
    assert np.isnan(facts.absolute_autocorrelation.value).all()
    assert facts.absolute_autocorrelation.reason == "no market has enough returns that vary"
    assert facts.volume_volatility == Estimate(None, reason="volume was not recorded")


def test_decay_exponent_of_an_exact_power_law():
    lag = np.arange(1.0, 31.0)
    memory = np.stack([0.2 * lag**-0.3, 0.4 * lag**-0.3])
    estimate = quality._decay(memory, FEW)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([0.3] * 3)
    broken = np.where(lag > 6, -0.1, memory)
    assert quality._decay(broken, FEW).value == pytest.approx(0.3)
    assert quality._decay(np.where(lag > 4, -0.1, memory), FEW).value is None


def test_volume_volatility_is_numpys():
    rng = np.random.default_rng(7)
    returns = rng.normal(size=(4, 80))
    volume = np.abs(returns) + rng.random(returns.shape)
    expected = np.mean([np.corrcoef(np.abs(r), v)[0, 1] for r, v in zip(returns, volume, strict=True)])
    assert quality.stylised_facts(returns, volume, lags=2).volume_volatility.value == pytest.approx(expected)
    assert quality.stylised_facts(returns, 0 * volume, lags=2).volume_volatility.value is None


def test_facts_of_daily_bars_pair_returns_with_their_volume():
    rng = np.random.default_rng(8)
    returns = rng.normal(0, 0.01, (300, 5))
    close = 50 * np.exp(np.cumsum(returns, axis=0))
    close[10, 0] = NAN
    facts = quality.facts_of_daily_bars(close, np.abs(returns), lags=10)
    assert facts.volume_volatility.value == pytest.approx(1.0)
    direct = quality.stylised_facts(np.diff(np.log(close), axis=0).T, np.abs(returns)[1:].T, lags=10)
    assert facts.as_dict() == direct.as_dict()


def test_interval_over_markets_is_scipys():
    price, value = walks(30, 40), np.full((30, 40), 100.0)
    each = np.array([quality.pricing_error(p[None], v[None]).value for p, v in zip(price, value, strict=True)])
    ours = quality.pricing_error(price, value, Bootstrap(draws=4000))
    theirs = scipy.stats.bootstrap(
        (each,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(each.mean())
    assert abs(ours.low - theirs.low) < 0.06 * width
    assert abs(ours.high - theirs.high) < 0.06 * width


def test_bootstrap_is_seeded_and_widens_with_confidence():
    price = walks()
    first, again, other = (quality.volatility(price, Bootstrap(seed=seed)) for seed in (1, 1, 2))
    wide = quality.volatility(price, Bootstrap(seed=1, confidence=0.99))
    assert first == again
    assert first.low != other.low
    assert wide.low < first.low < first.high < wide.high


def numbers(data):
    """Every estimate's plain data inside nested plain data."""
    if isinstance(data, dict) and "value" in data:
        yield data
    elif isinstance(data, dict):
        for part in data.values():
            yield from numbers(part)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 30])
@pytest.mark.parametrize("markets", [0, 1, 3])
@pytest.mark.parametrize("kind", ["random", "constant", "nan", "zero", "holes"])
def test_never_nan_never_silent(kind, markets, steps):
    def change(values):
        fill = {"constant": 3.0, "nan": NAN, "zero": 0.0}.get(kind)
        if kind == "holes":
            return np.where(np.random.default_rng(9).random(np.shape(values)) < 0.5, NAN, values)
        return np.asarray(values, float) if fill is None else np.full(np.shape(values), fill)

    record = Tape(**{name: change(values) for name, values in vars(tape(markets, steps)).items()})
    judged = quality.market_quality(record, bootstrap=FEW).as_dict()
    facts = quality.stylised_facts(record.price, record.volume, lags=5, bootstrap=FEW).as_dict()
    bars = quality.facts_of_daily_bars(record.price.T, record.volume.T, lags=5, bootstrap=FEW).as_dict()
    json.dumps([judged, facts, bars], allow_nan=False)
    found = list(numbers(judged)) + list(numbers(facts)) + list(numbers(bars))
    assert len(found) == 7 + 2 * 8
    for data in found:
        lacks = "null" in json.dumps([data["value"], data.get("interval", [data.get("low"), data.get("high")])])
        assert lacks == bool(data.get("reason"))
    if steps == 0 or markets == 0 or kind == "nan":
        assert all(data["value"] in (None, [None] * 5) for data in found)


def test_market_quality_has_every_name_and_the_functions_values():
    record = tape()
    start = np.array([[1, 0]] * 4)
    allocation = Allocation(start, start[:, ::-1], np.array([[1.0, 2.0]] * 4), np.ones(2))
    judged = quality.market_quality(record, allocation)
    without = quality.market_quality(record)
    assert list(judged.numbers) == list(without.numbers)
    assert judged.numbers["allocative_efficiency"] == Estimate(1.0, 1.0, 1.0)
    assert without.numbers["allocative_efficiency"] == Estimate(None, reason="private values were not recorded")
    assert judged.numbers["pricing_error_bps"] == quality.pricing_error(record.price, record.value)
    assert judged.numbers["quoted_spread_bps"].value == pytest.approx(20.0)
    assert judged.numbers["depth_lots"] == quality.depth(record.bid_lots, record.ask_lots)
    assert judged.numbers["kyle_lambda_bps_per_lot"] == quality.kyle_lambda(record.price, record.signed_flow)
    assert judged.numbers["amihud_per_million"] == quality.amihud(record.price, record.price * record.volume)
    assert judged.numbers["volatility_bps"] == quality.volatility(record.price)


def test_as_dict_of_estimates():
    one = Estimates(np.array([1.0, NAN]), np.array([0.5, NAN]), np.array([2.0, NAN]), "why")
    assert one.as_dict() == {"value": [1.0, None], "low": [0.5, None], "high": [2.0, None], "reason": "why"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quality.pricing_error(np.ones(3), np.ones(3)), "price, value: expected two axes"),
        (lambda: quality.depth(np.ones((2, 3)), np.ones((2, 4))), "bid_lots, ask_lots: expected"),
        (lambda: quality.stylised_facts(np.ones((2, 3)), np.ones((2, 4))), "returns, volume: expected"),
        (lambda: quality.stylised_facts(np.ones((2, 3)), lags=0), "lags: expected at least 1, got 0"),
    ],
)
def test_refuses_other_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
