"""After the fills: books, marks, bankruptcies and what is told of them.

Belongs here: how the modules of `jaxarena.market` are combined in the settle stage. Does not belong
here: when it runs (`env`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxarena.core.money import Money
from jaxarena.core.reduce import fold, total
from jaxarena.core.types import Bar, Fills, Orders, Quote
from jaxarena.env.rewards import Transition
from jaxarena.env.state import Accounts, Cleared, Decision, EpisodeStatistics, MarketParams, MarketState
from jaxarena.market import ledger as ledgers
from jaxarena.market.costs import BPS
from jaxarena.market.ledger import Ledger
from jaxarena.market.margin import RiskLimits
from jaxarena.market.mechanism import MechanismState
from jaxarena.market.views import EQUITY_FLOOR, drawdown_of


def endow(params: MarketParams) -> Ledger:
    """Books at the start of an episode."""
    n_assets = len(params.process.asset_names)
    cash = jnp.concatenate([jnp.full((role.count,), role.cash, jnp.float32) for role in params.roles])
    lots = [jnp.broadcast_to(jnp.asarray(role.lots, jnp.int32), (role.count, n_assets)) for role in params.roles]
    return ledgers.open_accounts(Money.of_float(cash, params.quanta_per_unit), jnp.concatenate(lots))


def fees_of(fills: Fills, params: MarketParams) -> Money:
    """What each agent owes the exchange for its fills of each asset, `[N, A]`."""
    traded = fills.bought + fills.sold
    return params.costs.fee(fills.cash.abs(), traded, fills.maker_lots, params.quanta_per_unit)


def penalties_of(fills: Fills, called: jax.Array, limits: RiskLimits) -> Money:
    """What agents under a margin call owe on top of the fees, `[N]`."""
    rate = jnp.asarray(limits.liquidation_penalty_bps) * jnp.float32(BPS)
    return fills.cash.abs().sum(1).scale_up(rate).masked(called)


def book(
    ledger: Ledger,
    called: jax.Array,
    quote: Quote,
    cleared: Cleared,
    at_end: jax.Array,
    limits: RiskLimits,
    params: MarketParams,
) -> tuple[Ledger, jax.Array]:
    """Trades, fees, penalties, financing, settlement at the hidden value and deficits, in this order.

    Returns:
        The books, and what trading cost each agent against the mid, `[N]` float32 quanta.
    """
    fills = cleared.fills
    lots = fills.bought - fills.sold
    ledger = ledgers.settle_trades(ledger, fills)

    fees, penalties = fees_of(fills, params).sum(1), penalties_of(fills, called, limits)
    ledger = ledgers.pay(ledger, fees + penalties, to="exchange")

    price = params.mechanism.settlement_ticks(cleared.mechanism, quote)
    values = Money.of_lots(price, ledger.agents.lots, params.tick_value)
    dt_years = 1.0 / jnp.asarray(params.process.steps_per_year, jnp.float32)
    interest = params.financing.charge(ledger.agents.cash, values.negative_part().sum(1), dt_years)
    ledger = ledgers.pay(ledger, interest, to="lender")

    if params.mechanism.makes_price and params.horizon == "terminal":
        ledger = ledgers.redeem(ledger, quote.bar.close, params.tick_value, at_end)

    flat = fold(jnp.logical_and, ledger.agents.lots == 0, axis=1)
    deficit = ledger.agents.cash.negative_part().masked(flat)
    ledger = ledgers.pay(ledger, -deficit, to="lender")

    slippage = -fills.cash.sum(1).to_float() - total(lots * cleared.mid, 1)
    return ledger, fees.to_float() + penalties.to_float() + jnp.maximum(slippage, 0.0)


def valuation(
    ledger: Ledger, mechanism: MechanismState, mid: jax.Array, quote: Quote, params: MarketParams
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What each account is worth at the close of the quote's bar, `[N]` float32 quanta.

    Returns:
        Equity net of what closing the position alone would cost, spread and own impact included, so that
        trading cannot inflate it; equity at the mid, exact at the exogenous close plus what the agents' flow
        has moved it; and exposure at the mid.
    """
    agents = ledger.agents
    price = params.mechanism.settlement_ticks(mechanism, quote)
    exact = agents.cash + Money.of_lots(price, agents.lots, params.tick_value).sum(1)
    moved = mid - price.astype(jnp.float32) * params.tick_value  # in float32: int32 would overflow
    at_mid = exact.to_float() + total(agents.lots * moved, 1)
    closing = params.mechanism.closing_prices(mechanism, agents.lots, quote) * params.tick_value
    equity = at_mid + total(agents.lots * (closing - mid), 1)
    return equity, at_mid, total(jnp.abs(agents.lots) * mid, 1)


def mark(
    before: Accounts,
    ledger: Ledger,
    mid: jax.Array,
    quote: Quote,
    cleared: Cleared,
    cost: jax.Array,
    limits: RiskLimits,
    params: MarketParams,
) -> tuple[Accounts, Transition]:
    """Mark every account at the close of bar t+1. An agent is dead once it is flat and ruined."""
    positions = ledger.agents.lots
    equity, at_mid, gross = valuation(ledger, cleared.mechanism, mid, quote, params)
    initial = before.initial_equity
    ruined = (equity <= limits.ruin_fraction * initial) & (gross == 0.0)
    accounts = Accounts(
        equity=equity,
        equity_mid=at_mid,
        gross=gross,
        initial_equity=initial,
        peak_equity=jnp.maximum(before.peak_equity, equity),
        variance=before.variance,
        entry_price=_entry_price(before.entry_price, positions, cleared),
        alive=before.alive & ~ruined,
    )
    transition = Transition(
        equity_before=before.equity,
        equity=equity,
        initial_equity=initial,
        drawdown_before=drawdown_of(before.equity, before.peak_equity),
        drawdown=drawdown_of(accounts.equity, accounts.peak_equity),
        variance=before.variance,
        weights=positions * mid / jnp.maximum(equity, EQUITY_FLOOR * initial)[:, None],
        inventory=positions / jnp.asarray(limits.max_position_lots)[:, None],
        captured=_captured(cleared, mid, quote, params),
        cost=cost,
    )
    memory = params.risk_memory
    variance = memory * before.variance + (1.0 - memory) * jnp.square(transition.log_return)
    return accounts.replace(variance=variance), transition.replace(variance=variance)


def value_gain(
    before: MarketState,
    ledger: Ledger,
    quote: Quote,
    cleared: Cleared,
    private_value: jax.Array,
    params: MarketParams,
) -> jax.Array:
    """What each account gained in the step, holdings counted at the hidden value, `[N]` float32 quanta.

    Nothing that agents do moves the value, so no trade among them gains for all of them together: without fees the
    gains of all agents sum to what the value itself has moved, on the lots that they hold. What a lot is worth to its
    owner on top of the value is counted too.
    """
    held = before.ledger.agents
    was = held.cash + Money.of_lots(before.close, held.lots, params.tick_value).sum(1)
    now = ledger.agents.cash + Money.of_lots(quote.bar.close, ledger.agents.lots, params.tick_value).sum(1)
    lots = cleared.fills.bought - cleared.fills.sold
    gained = total(lots * (quote.bar.close.astype(jnp.float32) * params.tick_value), 1)
    return (now - was).to_float() + private_value * gained


def closed_out(key: jax.Array, state: MarketState, params: MarketParams) -> jax.Array:
    """Equity if all agents closed all positions together now, at the last close, `[N]` float32 quanta.

    Everybody's orders go through the mechanism at once, so each pays the impact of all, spread and fees.
    Nothing is trimmed. Where the agents make the price all could not close at once: positions settle at the hidden
    value. Compare with the equity that rewards are made of, which assumes closing alone.

    Args:
        key: consumed.
        state: at the end of an episode, before any reset.
        params: of the market.
    """
    agents, liquidity = state.ledger.agents, params.process.liquidity(state.process)
    close = state.close
    if params.mechanism.makes_price:
        return (agents.cash + Money.of_lots(close, agents.lots, params.tick_value).sum(1)).to_float()
    bar = Bar(open=close, high=close, low=close, close=close, volume=jnp.zeros(close.shape, jnp.float32))
    quote = Quote(previous_close=close, bar=bar, depth_lots=liquidity.depth_lots, volatility=liquidity.volatility)
    _, fills, _ = params.mechanism.clear(key, state.mechanism, Orders.market(-agents.lots), quote, params.tick_value)
    fees = fees_of(fills, params).sum(1)
    return (agents.cash + fills.cash.sum(1) - fees).to_float()


def accumulate(
    statistics: EpisodeStatistics, reward: jax.Array, cost: jax.Array, cleared: Cleared
) -> EpisodeStatistics:
    """Add one step to the sums of the episode."""
    traded = cleared.fills.cash.abs().sum(1).to_float()
    return EpisodeStatistics(
        reward=statistics.reward + reward,
        cost=statistics.cost + cost,
        traded=statistics.traded + traded,
    )


def report(state: MarketState, decision: Decision, cleared: Cleared) -> dict[str, Any]:
    """What a step tells besides observations and rewards, over all `N` agents, scripted ones included.

    Keys:
        - `equity [N]`, float32 quanta: marked net of the cost of closing alone
        - `equity_mid [N]`, float32 quanta: marked at the mid, as margin is
        - `lots [N, A]`, int32 lots: bought minus sold in this step
        - `taker_flow [A]`, int32 lots: what all agents bought minus sold of what took liquidity
        - `traded [N]`, float32 quanta: value that changed hands
        - `actions_clipped [N]`, int32 count: entries of the action that were masked or clipped
        - `orders_trimmed [N]`, int32 count: orders cut to what the account can carry
        - `orders_rejected [N]`, int32 count: orders that the mechanism does not take
        - `self_matched [N]`, int32 count: orders cancelled because they crossed another one of the same agent
        - `liquidated [N]`, bool: a margin call put its orders in the place of the agent's own
    """
    return {
        "equity": state.accounts.equity,
        "equity_mid": state.accounts.equity_mid,
        "lots": cleared.fills.bought - cleared.fills.sold,
        "taker_flow": total(jnp.sign(cleared.fills.bought - cleared.fills.sold) * cleared.fills.taker_lots, 0),
        "traded": cleared.fills.cash.abs().sum(1).to_float(),
        "actions_clipped": decision.actions_clipped,
        "orders_trimmed": cleared.orders_trimmed,
        "orders_rejected": cleared.fills.orders_rejected + cleared.orders_refused,
        "self_matched": cleared.fills.self_matched,
        "liquidated": decision.called,
    }


def _captured(cleared: Cleared, mid: jax.Array, quote: Quote, params: MarketParams) -> jax.Array:
    """What the fills of this step gained against the price after them, `[N]` float32 quanta.

    Where the agents make the price everybody trades at that price, and the hidden value takes its place.
    """
    fills = cleared.fills
    after = quote.bar.close.astype(jnp.float32) * params.tick_value if params.mechanism.makes_price else mid
    return fills.cash.sum(1).to_float() + total((fills.bought - fills.sold) * after, 1)


def _entry_price(entry: jax.Array, positions: jax.Array, cleared: Cleared) -> jax.Array:
    """Average price of the open position: moved by what adds to it, kept by what reduces it."""
    lots = cleared.fills.bought - cleared.fills.sold
    before = positions - lots
    added = jnp.where(jnp.sign(before) == jnp.sign(lots), jnp.abs(lots), 0)
    price = cleared.fills.cash.abs().to_float() / jnp.maximum(jnp.abs(lots), 1)
    total = jnp.maximum(jnp.abs(before) + added, 1)
    averaged = entry + (price - entry) * (added / total)
    opened = (lots != 0) & ((before == 0) | (jnp.sign(before) * jnp.sign(positions) < 0))
    return jnp.where(opened, price, averaged)
