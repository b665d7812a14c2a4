"""Fees and financing against Python, to the quantum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxarena.core.money import Money, int_quanta
from jaxarena.market.costs import Financing, LinearImpact, ProportionalFees, SquareRootImpact
from tests.reference import market as reference

SIZE = 4
amounts = st.lists(st.integers(0, 2**52), min_size=SIZE, max_size=SIZE)
balances = st.lists(st.integers(-(2**52), 2**52), min_size=SIZE, max_size=SIZE)
lots = st.lists(st.sampled_from([-7, 0, 0, 3]), min_size=SIZE, max_size=SIZE)
rates = st.floats(0.0, 2.0, width=32, allow_subnormal=False)

fee_jit = jax.jit(
    lambda notional, lots, bps, fixed: ProportionalFees(fee_bps=bps, fixed_fee=fixed).fee(
        notional, jnp.abs(lots), jnp.zeros_like(lots), jnp.asarray(10_000)
    )
)
charge_jit = jax.jit(
    lambda cash, short, borrow, deposit, fee, dt: Financing(
        borrow_rate=borrow, deposit_rate=deposit, short_fee=fee
    ).charge(cash, short, dt)
)


@given(
    amounts, lots, st.floats(0, 100, width=32, allow_subnormal=False), st.floats(0, 64, width=32, allow_subnormal=False)
)
def test_fees(notional, traded, bps, fixed):
    got = fee_jit(Money.of_ints([notional]), jnp.asarray([traded], jnp.int32), jnp.float32(bps), jnp.float32(fixed))
    rules = reference.Rules(fee_bps=bps, fixed_fee=fixed, quanta_per_unit=10_000)
    assert int_quanta(got)[0] == [reference.fee(rules, cash, q) for cash, q in zip(notional, traded, strict=True)]


def test_fees_per_asset_are_never_in_favour_of_the_payer():
    fees = ProportionalFees(fee_bps=jnp.asarray([1.0, 100.0]))
    traded = jnp.ones((2, 2), jnp.int32)
    got = int_quanta(fees.fee(Money.of_ints([[1, 1], [10**6, 10**6]]), traded, jnp.zeros_like(traded), jnp.asarray(1)))
    assert got[0] == [1, 1]
    assert abs(got[1][0] - 100) <= 1
    assert abs(got[1][1] - 10_000) <= 1
    rate, fixed = fees.bound()
    np.testing.assert_allclose(rate, [1e-4, 1e-2], rtol=1e-6)
    assert float(fixed) == 0.0


@given(balances, amounts, rates, rates, rates)
def test_financing(cash, short, borrow, deposit, short_fee):
    dt = jnp.float32(1.0) / jnp.float32(252.0)
    rules = reference.Rules(borrow_rate=borrow, deposit_rate=deposit, short_fee=short_fee)
    got = charge_jit(
        Money.of_ints(cash), Money.of_ints(short), *(jnp.float32(rate) for rate in (borrow, deposit, short_fee)), dt
    )
    assert int_quanta(got) == [reference.interest(rules, c, s) for c, s in zip(cash, short, strict=True)]


def test_the_lender_rounds_in_its_own_favour():
    financing = Financing(borrow_rate=0.04, deposit_rate=0.04, short_fee=0.0)
    owed = int_quanta(financing.charge(Money.of_ints([-1, 1]), Money.zeros((2,)), jnp.float32(1 / 252)))
    assert owed == [1, 0]


def test_moves_by_hand():
    linear = LinearImpact(permanent=0.2, transient=0.1, linear_temporary=0.05)
    np.testing.assert_allclose(linear.fill_move(jnp.asarray(0.1), jnp.asarray(0.3)), 0.1 * (0.15 + 0.05), rtol=1e-6)
    root = SquareRootImpact(coefficient=0.5, permanent=0.2)
    expected = [0.5 * 0.2 * 0.04 + 0.5 * 0.3 * 0.2, -(0.5 * 0.2 * 0.04 + 0.5 * 0.3 * 0.2)]
    np.testing.assert_allclose(root.fill_move(jnp.asarray([0.04, -0.04]), jnp.asarray(0.3)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (ProportionalFees(fee_bps=-1.0), "costs.fee_bps"),
        (ProportionalFees(fixed_fee=float("nan")), "costs.fixed_fee"),
        (Financing(borrow_rate=-0.1), "financing.borrow_rate"),
        (LinearImpact(decay=1.5), "impact.decay"),
        (LinearImpact(permanent=-1.0), "impact.permanent"),
        (SquareRootImpact(coefficient=(0.5, -0.5)), "impact.coefficient"),
    ],
)
def test_parameters_without_meaning_are_refused(part, message):
    with pytest.raises(ValueError, match=message):
        part.validate()
