import math

import numpy as np
import pytest
import scipy.stats

from jaxarena.experiment import metrics
from jaxarena.experiment.metrics import METRICS, Estimate, iqm, iqm_estimate, summarise


def curves(count=3, steps=250, seed=0, mean=5e-4, deviation=0.01):
    returns = np.random.default_rng(seed).normal(mean, deviation, (count, steps))
    return 1e6 * np.concatenate([np.ones((count, 1)), np.cumprod(1 + returns, axis=1)], axis=1)


def idle(equity):
    return np.zeros((equity.shape[0], equity.shape[1] - 1))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_empyrical(seed):
    empyrical = pytest.importorskip("empyrical")
    returns = metrics.returns_of(curves(seed=seed))
    np.testing.assert_allclose(returns[0], empyrical.simple_returns(curves(seed=seed)[0]), atol=1e-14)
    for row, annual, volatility, sharpe, sortino, drawdown, calmar in zip(
        returns,
        metrics.annual_return(returns),
        metrics.annual_volatility(returns),
        metrics.sharpe(returns),
        metrics.sortino(returns),
        metrics.max_drawdown(returns),
        metrics.calmar(returns),
        strict=True,
    ):
        assert annual == pytest.approx(empyrical.annual_return(row), rel=1e-12)
        assert volatility == pytest.approx(empyrical.annual_volatility(row), rel=1e-12)
        assert sharpe == pytest.approx(empyrical.sharpe_ratio(row), rel=1e-12)
        assert sortino == pytest.approx(empyrical.sortino_ratio(row), rel=1e-12)
        assert drawdown == pytest.approx(-empyrical.max_drawdown(row), rel=1e-12)
        assert calmar == pytest.approx(empyrical.calmar_ratio(row), rel=1e-12)


def test_by_hand():
    equity = np.array([[100.0, 110.0, 99.0, 99.0, 108.9]])
    returns = metrics.returns_of(equity)
    np.testing.assert_allclose(returns, [[0.1, -0.1, 0.0, 0.1]])
    np.testing.assert_allclose(metrics.drawdown_of(returns), [[0.0, 0.0, 0.1, 0.1, 0.01]], atol=1e-12)
    assert metrics.hit_rate(returns)[0] == pytest.approx(2 / 3)
    assert metrics.annual_return(returns, 4.0)[0] == pytest.approx(0.089)
    assert metrics.sortino(returns, 4.0)[0] == pytest.approx(0.025 / math.sqrt(0.01 / 4) * 2)
    # 55/100 + 11/110 + 0 + 99/99 per four steps
    assert metrics.turnover_of(equity, np.array([[55.0, 11.0, 0.0, 99.0]]), 8.0)[0] == pytest.approx(2 * 1.65)


def test_constant_equity():
    equity = np.full((2, 6), 7.0)
    summary = summarise(equity, idle(equity), draws=50)
    for name in ("annual_return", "volatility", "max_drawdown", "turnover"):
        assert summary[name] == Estimate(0.0, 0.0, 0.0)
    assert summary["sharpe"] == Estimate(None, reason="returns do not vary")
    assert summary["sortino"] == Estimate(None, reason="no step lost money")
    assert summary["calmar"] == Estimate(None, reason="equity never fell")
    assert summary["hit_rate"] == Estimate(None, reason="equity never moved")


def test_constant_growth_has_no_sharpe_ratio_from_rounding():
    equity = 1e6 * 1.0001 ** np.arange(300.0)[None]
    assert summarise(equity, idle(equity), draws=50)["sharpe"].value is None


@pytest.mark.parametrize("after", [0.0, -5.0, 50.0])
def test_bankruptcy_is_final(after):
    equity = np.array([[100.0, 90.0, 0.0, after, after]])
    returns = metrics.returns_of(equity)
    np.testing.assert_allclose(returns, [[-0.1, -1.0, 0.0, 0.0]])
    summary = summarise(equity, np.array([[10.0, 9.0, 50.0, 50.0]]), draws=50)
    assert summary["annual_return"].value == -1.0
    assert summary["max_drawdown"].value == 1.0
    assert summary["turnover"].value == pytest.approx(252 * 0.2 / 4)


def test_one_step():
    summary = summarise(np.array([[100.0, 101.0]]), np.zeros((1, 1)), draws=50)
    assert summary["annual_return"].value == pytest.approx(1.01**252 - 1)
    assert summary["annual_return"].reason == "an interval needs more than one step"
    assert summary["volatility"] == Estimate(None, reason="too few steps")
    assert summary["sharpe"] == Estimate(None, reason="too few steps")


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", ["random", "constant", "bankrupt", "explosive"])
def test_never_nan(kind, count, steps):
    equity = {
        "random": curves(count, steps),
        "constant": np.ones((count, steps + 1)),
        "bankrupt": np.concatenate([np.ones((count, 1)), np.zeros((count, steps))], axis=1),
        "explosive": np.repeat(10.0 ** np.linspace(0, 5, steps + 1)[None], count, axis=0),
    }[kind]
    summary = summarise(equity, idle(equity), draws=40)
    assert tuple(summary) == METRICS
    for estimate in summary.values():
        numbers = [estimate.value, estimate.low, estimate.high]
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert (None in numbers) == bool(estimate.reason)


def test_interval_of_independent_returns_is_scipys():
    returns = np.random.default_rng(3).normal(1e-3, 0.01, (1, 300))
    equity = np.concatenate([np.ones((1, 1)), np.cumprod(1 + returns, axis=1)], axis=1)
    ours = summarise(equity, idle(equity), draws=4000, block=1)["sharpe"]
    theirs = scipy.stats.bootstrap(
        (returns[0],),
        lambda x, axis: metrics.sharpe(np.moveaxis(x, axis, -1)),
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.06 * width
    assert abs(ours.high - theirs.high) < 0.06 * width


def test_interval_over_curves_without_time_is_scipys():
    growth = np.random.default_rng(4).normal(0.0, 0.1, 25)
    equity = np.stack([np.ones(25), 1 + growth], axis=1)
    ours = summarise(equity, idle(equity), periods_per_year=1.0, draws=4000)["annual_return"]
    theirs = scipy.stats.bootstrap(
        (growth,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(growth.mean())
    assert abs(ours.low - theirs.low) < 0.06 * width
    assert abs(ours.high - theirs.high) < 0.06 * width


def test_blocks_see_autocorrelation():
    """Volatility of the mean grows with positive autocorrelation; single steps cannot show it, blocks can."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.01, 2000)
    returns = np.convolve(noise, np.ones(10) / 10, mode="valid")
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])[None]
    single, blocks = (summarise(equity, idle(equity), block=block, draws=400)["annual_return"] for block in (1, 40))
    assert blocks.high - blocks.low > 2.0 * (single.high - single.low)


def test_coverage_of_the_volatility_interval():
    true, hits, trials = 0.01 * math.sqrt(252), 0, 60
    for seed in range(trials):
        equity = curves(1, 250, seed=seed)
        estimate = summarise(equity, idle(equity), draws=200)["volatility"]
        hits += estimate.low <= true <= estimate.high
    assert hits >= 0.8 * trials


def test_clusters_widen_the_interval_of_copies():
    equity = np.repeat(curves(6), 5, axis=0)
    equity[:, 1:] *= 1 + 0.01 * np.repeat(np.arange(6), 5)[:, None]
    apart = summarise(equity, idle(equity), draws=300)["annual_return"]
    together = summarise(equity, idle(equity), draws=300, clusters=np.repeat(np.arange(6), 5))["annual_return"]
    alone = summarise(equity[::5], idle(equity[::5]), draws=300)["annual_return"]
    assert together.value == pytest.approx(apart.value)
    assert together.low == pytest.approx(alone.low)
    assert together.high - together.low > apart.high - apart.low


def test_seeded_and_independent_of_scale():
    equity = curves()
    first, again = (summarise(equity, idle(equity), draws=100, seed=1) for _ in range(2))
    other = summarise(equity, idle(equity), draws=100, seed=2)
    scaled = summarise(equity * 1024, idle(equity), draws=100, seed=1)
    assert first == again
    assert first["sharpe"].low != other["sharpe"].low
    assert scaled["sharpe"].low == pytest.approx(first["sharpe"].low)


def test_chunks_do_not_change_results(monkeypatch):
    equity = curves(4, 50)
    whole = summarise(equity, idle(equity), draws=100)
    monkeypatch.setattr(metrics, "_CHUNK_ENTRIES", 2000)
    pieces = summarise(equity, idle(equity), draws=100)
    assert {name: estimate.value for name, estimate in whole.items()} == {k: v.value for k, v in pieces.items()}
    assert pieces["sharpe"].low == whole["sharpe"].low


@pytest.mark.parametrize(
    ("equity", "notional", "message"),
    [
        (np.ones(5), np.ones(4), "expected shape"),
        (np.ones((2, 1)), np.ones((2, 0)), "expected shape"),
        (np.array([[1.0, np.nan]]), np.ones((1, 1)), "finite"),
        (np.array([[0.0, 1.0]]), np.ones((1, 1)), "positive start"),
        (np.ones((1, 3)), np.ones((1, 3)), "notional: expected shape"),
        (np.ones((1, 3)), -np.ones((1, 2)), "not the net"),
    ],
)
def test_refuses_what_is_no_equity_curve(equity, notional, message):
    with pytest.raises(ValueError, match=message):
        summarise(equity, notional, draws=10)


def test_refuses_a_block_longer_than_the_curve():
    with pytest.raises(ValueError, match="block: got 9"):
        summarise(np.ones((1, 4)), np.zeros((1, 3)), block=9)


@pytest.mark.parametrize("shape", [(1, 5), (8, 3), (5, 5), (3, 1)])
def test_iqm_is_scipys_trimmed_mean(shape):
    scores = np.random.default_rng(6).normal(size=shape)
    assert iqm(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None))


def test_iqm_interval_for_one_task_is_scipys():
    scores = np.random.default_rng(7).normal(size=(20, 1))
    ours = iqm_estimate(scores, draws=4000)
    theirs = scipy.stats.bootstrap(
        (scores[:, 0],),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.07 * width
    assert abs(ours.high - theirs.high) < 0.07 * width


def test_iqm_strata_are_resampled_on_their_own():
    """Tasks of different level, equal seeds within: nothing varies, so the interval is a point."""
    scores = np.repeat(np.array([[0.0, 1.0, 5.0, 100.0]]), 6, axis=0)
    estimate = iqm_estimate(scores)
    assert estimate.low == estimate.high == estimate.value == 3.0


def test_iqm_of_one_seed_has_no_interval():
    assert iqm_estimate(np.ones((1, 4))) == Estimate(1.0, reason="an interval needs several seeds")
