"""The ledger against Python ints; and an audit that sees every leg."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxarena.core.money import Money, int_quanta
from jaxarena.core.types import Fills
from jaxarena.market import ledger as ledgers
from jaxarena.market.ledger import audit, open_accounts, pay, settle_trades

N, A = 3, 2
CASH = [10**12, 5, 0]
LOTS = [[3, 0], [0, -4], [10**6, 7]]
HOUSES = ("exchange", "lender", "issuer", "dealer")


def make_fills(lots, cash):
    lots = jnp.asarray(lots, jnp.int32)
    return Fills(
        bought=jnp.maximum(lots, 0),
        sold=jnp.maximum(-lots, 0),
        cash=Money.of_ints(cash),
        maker_lots=jnp.zeros_like(lots),
        taker_lots=jnp.abs(lots),
        orders_rejected=jnp.zeros(N, jnp.int32),
        self_matched=jnp.zeros(N, jnp.int32),
    )


def opened():
    return open_accounts(Money.of_ints(CASH), jnp.asarray(LOTS, jnp.int32))


settle_jit = jax.jit(settle_trades)
pay_jit = {house: jax.jit(lambda book, amount, house=house: pay(book, amount, to=house)) for house in HOUSES}
table = st.lists(st.lists(st.integers(-(2**20), 2**20), min_size=A, max_size=A), min_size=N, max_size=N)
cash_table = st.lists(st.lists(st.integers(-(2**50), 2**50), min_size=A, max_size=A), min_size=N, max_size=N)
amounts = st.lists(st.integers(-(2**50), 2**50), min_size=N, max_size=N)
transfer = st.one_of(st.tuples(table, cash_table), st.tuples(st.sampled_from(HOUSES), amounts))


def test_opening_books_the_other_side_with_the_issuer():
    book = opened()
    assert int_quanta(book.agents.cash) == CASH
    assert book.agents.lots.tolist() == LOTS
    assert int_quanta(book.issuer.cash) == -(10**12 + 5)
    assert book.issuer.lots.tolist() == [-(10**6) - 3, -3]
    assert audit(book) == (0, [0, 0])


@settings(max_examples=30)
@given(st.lists(transfer, max_size=8))
def test_random_transfers_equal_python_ints(transfers):
    book = opened()
    cash, lots = list(CASH), [list(row) for row in LOTS]
    house = dict.fromkeys(HOUSES, 0) | {"issuer": -sum(CASH)}
    dealer_lots = [0, 0]
    for what, moved in transfers:
        if isinstance(what, str):
            book = pay_jit[what](book, Money.of_ints(moved))
            cash = [had - paid for had, paid in zip(cash, moved, strict=True)]
            house[what] += sum(moved)
        else:
            book = settle_jit(book, make_fills(what, moved))
            for n in range(N):
                cash[n] += sum(moved[n])
                for a in range(A):
                    lots[n][a] += what[n][a]
                    dealer_lots[a] -= what[n][a]
            house["dealer"] -= sum(map(sum, moved))
    assert int_quanta(book.agents.cash) == cash
    assert book.agents.lots.tolist() == lots
    assert {name: int_quanta(getattr(book, name).cash) for name in HOUSES} == house
    assert book.dealer.lots.tolist() == dealer_lots
    assert audit(book) == (0, [0, 0])


def scenario():
    """Every kind of transfer once, each through the module, as the environment calls it."""
    book = ledgers.open_accounts(Money.of_ints(CASH), jnp.asarray(LOTS, jnp.int32))
    book = ledgers.settle_trades(book, make_fills([[5, 0], [0, 2], [-1, -9]], [[-500, 0], [0, -30], [99, 1000]]))
    book = ledgers.pay(book, Money.of_ints([3, 4, 5]), to="exchange")
    return ledgers.pay(book, Money.of_ints([7, -100, 0]), to="lender")


def without(function, account, leg):
    """`function` as if the line that writes one leg of one account were missing."""

    def broken(book, *args, **kwargs):
        after = function(book, *args, **kwargs)
        if function is open_accounts:
            old = (
                Money.zeros((N,) if account == "agents" else ())
                if leg == "cash"
                else jnp.zeros_like(getattr(after, account).lots)
            )
        else:
            old = getattr(getattr(book, account), leg)
        return after.replace(**{account: getattr(after, account).replace(**{leg: old})})

    return broken


def test_the_scenario_is_balanced():
    assert audit(scenario()) == (0, [0, 0])


@pytest.mark.parametrize(
    ("name", "account", "leg"),
    [
        ("open_accounts", "agents", "cash"),
        ("open_accounts", "agents", "lots"),
        ("open_accounts", "issuer", "cash"),
        ("open_accounts", "issuer", "lots"),
        ("settle_trades", "agents", "cash"),
        ("settle_trades", "agents", "lots"),
        ("settle_trades", "dealer", "cash"),
        ("settle_trades", "dealer", "lots"),
        ("pay", "agents", "cash"),
        ("pay", "exchange", "cash"),
        ("pay", "lender", "cash"),
    ],
)
def test_a_transfer_without_one_leg_fails_the_audit(monkeypatch, name, account, leg):
    monkeypatch.setattr(ledgers, name, without(getattr(ledgers, name), account, leg))
    cash, lots = audit(scenario())
    assert (cash != 0) if leg == "cash" else any(lots)


def test_wrong_shapes_name_the_argument():
    with pytest.raises(ValueError, match="amount: expected shape"):
        pay(opened(), Money.of_ints([1, 2]), to="exchange")
    with pytest.raises(ValueError, match="cash: expected shape"):
        open_accounts(Money.of_ints([1]), jnp.zeros((2, 1), jnp.int32))


def test_trades_among_agents_leave_the_dealer_alone():
    book = settle_trades(opened(), make_fills([[5, 0], [-5, 0], [0, 0]], [[-50, 0], [50, 0], [0, 0]]))
    assert int_quanta(book.dealer.cash) == 0
    np.testing.assert_array_equal(book.dealer.lots, 0)
