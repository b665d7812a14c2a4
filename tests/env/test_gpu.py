"""The books on a GPU and on the CPU, to the unit. Needs a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.money import Money, int_quanta
from jaxarena.core.types import Fills
from jaxarena.market import ledger as ledgers
from jaxarena.market.costs import Financing, ProportionalFees

STEPS, AGENTS, ASSETS = 200, 8, 3
PLATFORM = jax.devices()[0].platform
needs_gpu = pytest.mark.skipif(PLATFORM != "gpu", reason=f"needs a GPU; the first device is a {PLATFORM}")


def injected():
    """Random fills, big and small: signed lots, prices in ticks and rates, drawn by NumPy."""
    rng = np.random.default_rng(0)
    return {
        "lots": rng.integers(-5_000, 5_001, (STEPS, AGENTS, ASSETS), np.int32),
        "ticks": rng.integers(1, 2**24, (STEPS, ASSETS), np.int32),
        "rate": rng.normal(0.0, 0.01, (STEPS, AGENTS, ASSETS)).astype(np.float32),
    }


def step(ledger, fill):
    """Trades at a price with a rate on top, then fees, interest and deficits: every kind of transfer."""
    tick_value = jnp.array([1, 3, 100], jnp.int32)
    exact = Money.of_lots(fill["ticks"], fill["lots"], tick_value)
    paid = exact + exact.scale_up(fill["rate"])
    nothing = jnp.zeros_like(fill["lots"])
    fills = Fills(
        bought=jnp.maximum(fill["lots"], 0),
        sold=jnp.maximum(-fill["lots"], 0),
        cash=-paid,
        maker_lots=nothing,
        taker_lots=jnp.abs(fill["lots"]),
        orders_rejected=nothing[:, 0],
        self_matched=nothing[:, 0],
    )
    ledger = ledgers.settle_trades(ledger, fills)
    costs = ProportionalFees(fee_bps=jnp.array([1.5, 0.7, 3.3]), fixed_fee=jnp.array(0.01))
    ledger = ledgers.pay(ledger, costs.fee(paid.abs(), jnp.abs(fill["lots"]), nothing, 10_000).sum(1), to="exchange")
    short = Money.of_lots(fill["ticks"], ledger.agents.lots, tick_value).negative_part().sum(1)
    financing = Financing(*(jnp.array(rate, jnp.float32) for rate in (0.3, 0.05, 0.2)))
    ledger = ledgers.pay(ledger, financing.charge(ledger.agents.cash, short, jnp.float32(1 / 252)), to="lender")
    deficit = ledger.agents.cash.negative_part().masked(fill["lots"][:, 0] > 4_000)
    ledger = ledgers.pay(ledger, -deficit, to="lender")
    return ledger, (ledger, ledger.agents.cash.to_float())


def books(device):
    """Every account after every step, in Python ints, and the float32 view of cash; computed on `device`."""
    with jax.default_device(device):
        fills = jax.device_put(injected(), device)
        cash = Money.of_float(jnp.full(AGENTS, 123_456.78, jnp.float32), 10_000)
        start = jax.device_put(ledgers.open_accounts(cash, jnp.zeros((AGENTS, ASSETS), jnp.int32)), device)
        _, (ledger, floats) = jax.jit(functools.partial(jax.lax.scan, step))(start, fills)
        assert ledger.agents.lots.devices() == {device}
    accounts = {name: getattr(ledger, name) for name in ("agents", "exchange", "lender", "issuer", "dealer")}
    return {name: (int_quanta(a.cash), np.asarray(a.lots).tolist()) for name, a in accounts.items()}, np.asarray(floats)


def test_the_run_that_is_compared_uses_all_64_bits_and_balances():
    """On the CPU; without it the comparison below could compare nothing."""
    accounts, _ = books(jax.devices("cpu")[0])
    cash = np.array(accounts["agents"][0], dtype=np.int64)
    assert np.abs(cash).max() > 2**40
    houses = sum(np.array(accounts[name][0], dtype=np.int64) for name in ("exchange", "lender", "issuer", "dealer"))
    assert (cash.sum(1) + houses == 0).all()
    assert (np.diff(accounts["lender"][0]) < 0).any()
    assert (np.diff(accounts["exchange"][0]) > 0).all()


@pytest.mark.gpu
@needs_gpu
def test_cpu_and_gpu_ledgers_agree_to_the_unit():
    on_cpu, cpu_floats = books(jax.devices("cpu")[0])
    on_gpu, gpu_floats = books(jax.devices("gpu")[0])
    for name, (cash, lots) in on_cpu.items():
        assert on_gpu[name][0] == cash, name
        assert on_gpu[name][1] == lots, name
    np.testing.assert_array_equal(cpu_floats, gpu_floats)
