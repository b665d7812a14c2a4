"""Synthetic prices follow the laws they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxarena.core.draws import normals, uniforms
from jaxarena.core.tree import as_arrays
from jaxarena.market.processes import Gbm, PlantedSignal

MARKETS, A = 20_000, 2
SIGMA = np.array([0.2, 0.4]) / np.sqrt(252.0)
#: A test that is right fails once in a thousand seeds; the seed is fixed.
P = 1e-3


@jax.jit
def two_bars(process, seed):
    keys = jax.random.split(jax.random.key(seed), MARKETS)

    def one(key):
        state, first = process.init(jax.random.fold_in(key, 0), 10)
        middle, bar = process.step(jax.random.fold_in(key, 1), state)
        _, last = process.step(jax.random.fold_in(key, 2), middle)
        return state, middle, first, bar, last

    return jax.vmap(one)(keys)


@pytest.fixture(scope="module")
def gbm():
    process = as_arrays(Gbm(n_assets=A, volatility=(0.2, 0.4), drift=(2.5, -1.0), market_loading=(0.9, -0.5)))
    return jax.tree.map(np.asarray, two_bars(process, 1))


@pytest.fixture(scope="module")
def planted():
    process = as_arrays(PlantedSignal(n_assets=A, volatility=(0.2, 0.4), strength=0.004))
    return jax.tree.map(np.asarray, two_bars(process, 2))


def log_returns(record):
    """Of both steps, from the float state, `[2, E, A]`."""
    state, middle, _, bar, last = record
    second = np.log(last.close / bar.close.astype(np.float64))
    return np.stack([np.asarray(middle.log_price, np.float64) - state.log_price, second])


def test_gbm_mean_variance_and_normality(gbm):
    mean = np.array([2.5, -1.0]) / 252 - 0.5 * SIGMA**2
    for returns in log_returns(gbm):
        for a in range(A):
            z = (returns[:, a] - mean[a]) / SIGMA[a]
            assert stats.ttest_1samp(z, 0.0).pvalue > P
            low, high = stats.chi2.ppf([P, 1 - P], MARKETS) / MARKETS
            assert low < (z**2).mean() < high
            assert stats.kstest(z, "norm").pvalue > P


def test_gbm_correlation_is_the_product_of_loadings(gbm):
    for returns in log_returns(gbm):
        measured = np.corrcoef(returns.T)[0, 1]
        assert abs(np.arctanh(measured) - np.arctanh(-0.45)) < 3.5 / np.sqrt(MARKETS)


def test_gbm_steps_are_independent(gbm):
    first, second = log_returns(gbm)
    for a in range(A):
        assert abs(np.corrcoef(first[:, a], second[:, a])[0, 1]) < 3.5 / np.sqrt(MARKETS)


@pytest.mark.parametrize("record", ["gbm", "planted"])
def test_highs_and_lows_follow_the_brownian_bridge(record, request):
    """Given both ends, `exp(-2 M (M - r) / sigma^2)` of the highest point M is uniform; the lowest mirrors it."""
    _, _, _, bar, last = request.getfixturevalue(record)
    for one in (bar, last):
        opened, high, low, close = (np.log(np.asarray(p, np.float64)) for p in (one.open, one.high, one.low, one.close))
        for a in range(A):
            r = (close - opened)[:, a]
            for reach, end in (((high - opened)[:, a], r), ((opened - low)[:, a], -r)):
                uniform = np.exp(-2 * reach * (reach - end) / SIGMA[a] ** 2)
                assert stats.kstest(uniform, "uniform").pvalue > P


@pytest.mark.parametrize("record", ["gbm", "planted"])
def test_bars_are_consistent(record, request):
    _, _, first, bar, last = request.getfixturevalue(record)
    for one in (first, bar, last):
        assert (one.low >= 1).all()
        assert (one.low <= np.minimum(one.open, one.close)).all()
        assert (one.high >= np.maximum(one.open, one.close)).all()
        assert (one.volume > 0).all()
        assert one.close.dtype == np.int32
    np.testing.assert_array_equal(bar.open, first.close)
    np.testing.assert_array_equal(last.open, bar.close)
    assert (bar.high > np.maximum(bar.open, bar.close)).mean() > 0.99


def test_volume_is_lognormal_around_its_mean(gbm):
    volume = np.log(gbm[3].volume.astype(np.float64) / 1e6) + 0.5 * 0.3**2
    assert stats.kstest(volume[:, 0] / 0.3, "norm").pvalue > P


def test_planted_signal_announces_the_mean_return(planted):
    state, middle, _, bar, last = planted
    for one, signal in ((bar, state.signal), (last, middle.signal)):
        returns = one.close / one.open.astype(np.float64) - 1.0
        for a in range(A):
            assert set(np.unique(signal[:, a])) == {-1.0, 1.0}
            assert stats.binomtest(int((signal[:, a] > 0).sum()), MARKETS).pvalue > P
            assert stats.ttest_1samp(returns[:, a] * signal[:, a], 0.004).pvalue > P
            noise = returns[:, a] - 0.004 * signal[:, a]
            assert abs(noise.std() / SIGMA[a] - 1) < 0.02
    assert abs(np.corrcoef(state.signal[:, 0], middle.signal[:, 0])[0, 1]) < 3.5 / np.sqrt(MARKETS)
    assert abs(np.corrcoef(state.signal.T)[0, 1]) < 3.5 / np.sqrt(MARKETS)


def test_a_market_without_volatility_stands_still():
    process = as_arrays(Gbm(n_assets=A, volatility=(0.0, 0.0), drift=(0.0, 0.0), market_loading=(0.9, -0.5)))
    _, _, first, bar, last = two_bars(process, 1)
    for price in (bar.open, bar.high, bar.low, bar.close, last.close):
        np.testing.assert_array_equal(price, first.close)


def test_prices_stay_in_bounds_and_finite_in_a_crash():
    process = as_arrays(Gbm(n_assets=A, volatility=(10.0, 10.0), drift=(-1e4, 1e4), market_loading=(0.9, -0.5)))
    _, middle, _, bar, last = two_bars(process, 1)
    assert np.isfinite(middle.log_price).all()
    for one in (bar, last):
        assert (one.low >= 1).all()
        assert (one.high <= 2**30).all()
        assert (one.high >= one.low).all()


def test_the_planted_signal_never_breaks_whatever_validation_admits():
    """A return below -100 % has no logarithm."""
    process = PlantedSignal(n_assets=A, volatility=(8.0, 8.0), strength=0.004)
    _, middle, _, _, _ = two_bars(as_arrays(process), 2)
    if not np.isfinite(middle.log_price).all():
        with pytest.raises(ValueError, match="volatility"):
            process.validate(10, 1)


def test_uniforms_lie_strictly_inside_and_normals_are_normal():
    draws = np.asarray(uniforms(jax.random.key(0), (200_000,)))
    assert draws.min() > 0.0
    assert draws.max() < 1.0
    assert stats.kstest(draws, "uniform").pvalue > P
    assert stats.kstest(np.asarray(normals(jnp.asarray(draws))), "norm").pvalue > P
    assert np.isfinite(normals(jnp.asarray([2.0**-24, 1 - 2.0**-24], jnp.float32))).all()


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (Gbm(volatility=-0.1), "process.volatility"),
        (Gbm(initial_price=1e9), "process.initial_price"),
        (Gbm(market_loading=1.5), "process.market_loading"),
        (Gbm(drift=float("nan")), "process.drift"),
        (Gbm(mean_volume=0.0), "process.mean_volume"),
        (PlantedSignal(strength=0.5), "process.strength"),
    ],
)
def test_parameters_without_meaning_are_refused(process, message):
    with pytest.raises(ValueError, match=message):
        process.validate(10, 1)


def test_what_a_process_does_not_have_is_named():
    process = Gbm()
    with pytest.raises(ValueError, match="'gbm' announces no signal"):
        process.signal(None)
    with pytest.raises(ValueError, match="'gbm' has no recorded bars"):
        process.bar_index(None)
    assert process.asset_names == ("A0",)
    assert process.tick_size == 1e-4
