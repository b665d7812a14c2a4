"""Exact double-entry bookkeeping.

Five kinds of account: the agents, the exchange (fees), the lender (interest, deficits), the issuer
(minus the endowments) and the dealer (the other side of trades with the outside market). Every
transfer writes both of its legs; no balance is derived from the others. The totals of cash and of
each asset over all accounts are therefore identically zero, which `audit` checks to the unit. What
enters both legs goes through `once`: evaluated twice, an amount that came from floating point could
differ between them. Belongs here: moving money and lots. Does not belong here: how much is owed (`costs`, `margin`) and
who trades (`mechanism`).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.checks import expect_shape
from jaxarena.core.money import Money, int_quanta
from jaxarena.core.once import once
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record
from jaxarena.core.types import Fills

House = Literal["exchange", "lender", "issuer", "dealer"]


class Account(Record):
    """Cash and holdings of one party, or of a row of parties."""

    cash: Money  # [...] quanta
    lots: jax.Array  # [..., A] int32


class Ledger(Record):
    """All accounts of one market."""

    agents: Account  # [N]
    exchange: Account
    lender: Account
    issuer: Account
    dealer: Account


def open_accounts(cash: Money, lots: jax.Array) -> Ledger:
    """Endow the agents; the issuer books the other side.

    Args:
        cash: `[N]` quanta given to each agent.
        lots: `[N, A]` int32 lots given to each agent.
    """
    expect_shape("cash", cash.hi, lots.shape[:1])
    empty = Account(cash=Money.zeros(), lots=jnp.zeros(lots.shape[1:], jnp.int32))
    return Ledger(
        agents=Account(cash=cash, lots=lots),
        exchange=empty,
        lender=empty,
        issuer=Account(cash=-cash.sum(0), lots=-total(lots, 0)),
        dealer=empty,
    )


def settle_trades(ledger: Ledger, fills: Fills) -> Ledger:
    """Deliver lots against cash between the agents and the dealer.

    Trades among agents net out in the sums, so the dealer's legs move by what crossed the market's border.
    """
    lots, cash = once((fills.bought - fills.sold, fills.cash.sum(1)))  # [N, A], [N]
    expect_shape("fills.bought", fills.bought, ledger.agents.lots.shape)
    agents = Account(cash=ledger.agents.cash + cash, lots=ledger.agents.lots + lots)
    dealer = Account(
        cash=ledger.dealer.cash - cash.sum(0),
        lots=ledger.dealer.lots - total(lots, 0),
    )
    return ledger.replace(agents=agents, dealer=dealer)


def pay(ledger: Ledger, amount: Money, to: House) -> Ledger:
    """Move `amount` from each agent to a house account; negative amounts flow to the agents.

    Args:
        amount: `[N]` quanta.
        to: the house account that receives.
    """
    expect_shape("amount", amount.hi, ledger.agents.cash.shape)
    amount = once(amount)
    house: Account = getattr(ledger, to)
    agents = ledger.agents.replace(cash=ledger.agents.cash - amount)
    return ledger.replace(**{"agents": agents, to: house.replace(cash=house.cash + amount.sum(0))})


def redeem(ledger: Ledger, value_ticks: jax.Array, tick_value: jax.Array, due: jax.Array) -> Ledger:
    """The issuer takes all lots back at their value: how positions settle where there is a hidden value.

    Args:
        value_ticks: `[A]` int32 ticks per lot.
        tick_value: `[]` or `[A]` int32 quanta per tick and lot.
        due: `[]` bool, whether it happens now.
    """
    agents, issuer = ledger.agents, ledger.issuer
    lots = jnp.where(due, agents.lots, 0)  # [N, A]
    cash = Money.of_lots(value_ticks, lots, tick_value).sum(1)  # [N]
    lots, cash = once((lots, cash))
    return ledger.replace(
        agents=Account(cash=agents.cash + cash, lots=agents.lots - lots),
        issuer=Account(cash=issuer.cash - cash.sum(0), lots=issuer.lots + total(lots, 0)),
    )


def audit(ledger: Ledger) -> tuple[int, list[int]]:
    """Total cash (quanta) and total lots per asset over all accounts of one market, as Python ints. Host only.

    Both are zero unless a transfer lost a leg.
    """
    accounts = [ledger.agents, ledger.exchange, ledger.lender, ledger.issuer, ledger.dealer]
    cash = sum(_total(int_quanta(account.cash)) for account in accounts)
    lots = [np.asarray(account.lots, np.int64).reshape(-1, account.lots.shape[-1]).sum(0) for account in accounts]
    return cash, [int(total) for total in np.sum(lots, axis=0)]


def _total(quanta: Any) -> int:
    return sum(map(_total, quanta)) if isinstance(quanta, list) else int(quanta)
