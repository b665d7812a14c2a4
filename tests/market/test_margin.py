"""Pre-trade checks and margin calls hold their promises at the worst price, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxarena.market.margin import Exposure, RiskLimits, forced_lots, trim

N, A = 3, 2
trim_jit, forced_jit = jax.jit(trim), jax.jit(forced_lots)


def rows(elements, shape):
    if len(shape) == 1:
        return st.lists(elements, min_size=shape[0], max_size=shape[0])
    return st.lists(rows(elements, shape[1:]), min_size=shape[0], max_size=shape[0])


def limits_of(leverage, allow_short, cap=10_000_000, **changes):
    full = {name: jnp.full(N, value) for name, value in vars(RiskLimits(initial_margin=0.2, **changes)).items()}
    return RiskLimits(
        **full
        | {
            "max_leverage": jnp.asarray(leverage, jnp.float32),
            "allow_short": jnp.asarray(allow_short),
            "max_position_lots": jnp.full(N, cap, jnp.int32),
        }
    )


def exposure_of(equity, mid, spread, fee_rate, fixed_fee, positions):
    mid = jnp.asarray(mid, jnp.float32)
    spread = jnp.asarray(spread, jnp.float32)
    return Exposure(
        equity=jnp.asarray(equity, jnp.float32),
        mid=mid,
        highest=mid * (1 + spread),
        lowest=mid * (1 - spread),
        fee_rate=jnp.full(A, fee_rate, jnp.float32),
        fixed_fee=jnp.float32(fixed_fee),
        positions=jnp.asarray(positions, jnp.int32),
    )


positive = st.floats(1.0, 1e9)
lots_small = st.integers(-3000, 3000)
case = {
    "wanted": rows(st.one_of(lots_small, st.integers(-(10**7), 10**7)), (N, A)),
    "positions": rows(lots_small, (N, A)),
    "equity": rows(st.floats(-1e6, 1e11), (N,)),
    "mid": rows(positive, (A,)),
    "spread": rows(st.floats(0, 0.05), (A,)),
    "fee_rate": st.floats(0, 0.01),
    "fixed_fee": st.sampled_from([0.0, 100.0, 1e6]),
    "leverage": rows(st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 5.0]), (N,)),
    "allow_short": rows(st.booleans(), (N,)),
    "cap": st.sampled_from([3000, 10**7]),
}


@settings(max_examples=300)
@given(st.fixed_dictionaries(case))
def test_trim(case):
    exposure = exposure_of(*(case[name] for name in ("equity", "mid", "spread", "fee_rate", "fixed_fee", "positions")))
    limits = limits_of(case["leverage"], case["allow_short"], case["cap"])
    wanted, positions = np.array(case["wanted"]), np.array(case["positions"])
    lots = np.asarray(trim_jit(jnp.asarray(wanted, jnp.int32), exposure, limits)).astype(np.int64)

    assert (np.abs(lots) <= np.abs(wanted)).all()
    assert (lots * wanted >= 0).all()
    reducing = np.where(wanted * positions < 0, np.sign(wanted) * np.minimum(np.abs(wanted), np.abs(positions)), 0)
    assert (np.abs(lots) >= np.abs(reducing)).all(), "what reduces a position always passes"
    after = positions + lots
    no_short = ~np.array(case["allow_short"])
    assert (after >= np.minimum(positions, 0))[no_short].all()
    assert (np.abs(after) <= np.maximum(case["cap"], np.abs(positions))).all()

    mid, high, low = (np.asarray(getattr(exposure, name), np.float64) for name in ("mid", "highest", "lowest"))
    price_loss = np.where(lots > 0, high - mid, mid - low) + high * np.float64(np.float32(case["fee_rate"]))
    cost = (np.abs(lots) * price_loss).sum(1) + (lots != 0).sum(1) * case["fixed_fee"]
    equity = np.asarray(exposure.equity, np.float64) - cost
    adds = (lots != reducing).any(1)
    gross = (np.abs(after) * mid).sum(1)
    leverage = np.minimum(np.array(case["leverage"]), 1.0 / np.float64(np.float32(0.2)))
    assert (gross <= leverage * equity)[adds].all()


def test_orders_within_the_limits_pass_untouched():
    exposure = exposure_of([1e6] * N, [100.0, 50.0], [1e-4, 1e-4], 1e-4, 0.0, np.zeros((N, A)))
    wanted = jnp.asarray([[4000, 1000], [0, 0], [9000, 1990]], jnp.int32)
    got = trim_jit(wanted, exposure, limits_of([1.0] * N, [False] * N))
    np.testing.assert_array_equal(got, wanted)


def test_all_cash_buys_all_but_the_last_lot():
    exposure = exposure_of([1e8] * N, [100.0, 50.0], [1e-3, 1e-3], 1e-3, 0.0, np.zeros((N, A)))
    wanted = jnp.asarray([[10**6, 0]] * N, jnp.int32)
    lots = int(trim_jit(wanted, exposure, limits_of([1.0] * N, [False] * N))[0, 0])
    best = int(1e8 / (100 * (1.001 + 1.001 * 0.001)))
    assert best - 1 - 1e-5 * best <= lots <= best


def test_one_factor_for_all_assets():
    exposure = exposure_of([1e9] * N, [100.0, 50.0], [0.0, 0.0], 0.0, 0.0, np.zeros((N, A)))
    lots = np.asarray(
        trim_jit(jnp.asarray([[8 * 10**6, 4 * 10**6]] * N, jnp.int32), exposure, limits_of([0.5] * N, [True] * N))
    )
    assert abs(lots[0, 0] - 2 * lots[0, 1]) <= 2
    np.testing.assert_allclose((lots[0] * [100, 50]).sum(), 5e8, rtol=1e-5)


def test_margin_calls_by_hand():
    """Equity 10 under exposure 100 at maintenance 15 %: down to 5 x 10; equity 1 of 100: all; equity 16: nothing."""
    limits = limits_of([5.0] * N, [True] * N, maintenance_margin=0.15, ruin_fraction=0.02)
    positions = jnp.asarray([[100, -20], [100, -20], [100, -20]], jnp.int32)
    called, lots = forced_jit(positions, jnp.asarray([10.0, 1.0, 16.0]), jnp.full(N, 100.0), jnp.full(N, 100.0), limits)
    assert called.tolist() == [True, True, False]
    assert lots[0].tolist() == [-50, 10]
    assert lots[1].tolist() == [-100, 20]


@given(
    rows(lots_small, (N, A)),
    rows(st.floats(-1e6, 1e6), (N,)),
    rows(st.floats(1.0, 100.0), (A,)),
    rows(st.sampled_from([0.5, 1.0, 5.0]), (N,)),
)
def test_margin_calls_only_reduce_and_reach_what_may_be_opened(positions, equity, mid, leverage):
    limits = limits_of(leverage, [True] * N, maintenance_margin=0.15)
    positions, equity = np.array(positions), np.array(equity, np.float32).astype(np.float64)
    gross = (np.abs(positions) * mid).sum(1).astype(np.float32).astype(np.float64)
    called, lots = forced_jit(
        jnp.asarray(positions, jnp.int32),
        jnp.asarray(equity, jnp.float32),
        jnp.asarray(gross, jnp.float32),
        jnp.full(N, 1e6),
        limits,
    )
    called, after = np.asarray(called), positions + np.asarray(lots)
    assert (np.asarray(lots) * positions <= 0).all()
    assert (np.abs(after) <= np.abs(positions)).all()
    ruined = equity <= np.float32(0.01) * 1e6
    near = np.abs(equity - np.float32(0.15) * gross) < 1e-3 * (1 + gross)
    np.testing.assert_array_equal(called[~near], ((gross > 0) & (ruined | (equity < 0.15 * gross)))[~near])
    assert not after[called & ruined].any()
    target = np.minimum(np.array(leverage), 5.0) * equity
    assert ((np.abs(after) * mid).sum(1) <= target + 1e-5 * gross)[called & ~ruined].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_leverage": -1.0}, "max_leverage"),
        ({"initial_margin": 0.0}, "initial_margin"),
        ({"maintenance_margin": 0.6}, "maintenance margin cannot exceed initial margin"),
        ({"ruin_fraction": 1.0}, "ruin_fraction"),
        ({"max_position_lots": 0}, "max_position_lots"),
        ({"liquidation_penalty_bps": float("nan")}, "liquidation_penalty_bps"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=rf"roles\.x\.limits.*{message}"):
        RiskLimits(**changes).validate("roles.x.limits")
