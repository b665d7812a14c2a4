"""Observation blocks: named slices of what an agent sees, in comparable units.

A block either describes the market, once for everybody, or the agent's own account. Values are
clipped to `[-LIMIT, LIMIT]` and never NaN. Belongs here: features of bar t. Nothing here may read a
later bar: the views do not hold one.
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range
from jaxarena.core.component import Component
from jaxarena.core.once import once
from jaxarena.core.reduce import mean, total
from jaxarena.core.tree import static
from jaxarena.market.costs import BPS
from jaxarena.market.views import AccountView, MarketView

LIMIT = 10.0


class Observation(Component, family="observation"):
    """A block of features."""

    #: True when the block is the same for all agents of a market.
    shared: ClassVar[bool] = True

    @property
    def lookback(self) -> int:
        """Bars of the window that it reads."""
        return 1

    def validate(self, where: str) -> None:
        """Raise ValueError for parameters without meaning. Host only."""

    @abstractmethod
    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """Features: `[D]` for a shared block, `[n, D]` for one of the account."""


class BarReturns(Observation):
    """The last `length` bars of each asset as returns.

    For every bar: open, high, low and close over the close before it, minus 1, times `scale`; and volume
    over the mean volume of the window, minus 1. `D = length * 5 * A`, oldest bar first.
    """

    length: int = static(default=8)
    scale: float = 30.0  # a move of 3 % becomes about 1

    @property
    def lookback(self) -> int:
        """One bar more than are shown."""
        return self.length + 1

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.length", self.length, 1, 10_000)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[length * 5 * A]`."""
        window = market.window
        before = window.close[-self.length - 1 : -1]
        prices = [window.open, window.high, window.low, window.close]
        returns = [(price[-self.length :] / before - 1.0) * self.scale for price in prices]
        volume = window.volume[-self.length :]
        relative = volume / jnp.maximum(mean(volume), 1.0) - 1.0
        return jnp.stack([*returns, relative], axis=1).reshape(-1)


class Indicators(Observation):
    """The scale-free features of all indicators of the market. `D = outputs * A`."""

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[sum of outputs * A]`."""
        return jnp.concatenate([feature.reshape(-1) for feature in market.features])


class MarketFlow(Observation):
    """Recent net flow of all agents over the market's depth, times `scale`. `D = A`."""

    scale: float = 20.0

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[A]`."""
        return market.flow * self.scale


class Signal(Observation):
    """What the process announces about the next return. `D = A`."""

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[A]`."""
        if market.signal is None:
            raise ValueError(
                "observation 'signal': the process announces none; remove the block or use another process"
            )
        return market.signal


class TimeLeft(Observation):
    """The share of the episode still ahead; only for a terminal horizon. `D = 1`."""

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[1]`."""
        return market.time_left[None]


class Portfolio(Observation):
    """The agent's own account. `D = 5 + 2 A`.

    Cash over equity, leverage (gross exposure over equity), log of equity over its start times 5, drawdown
    times 5, room (1 when nothing is invested, 0 at the leverage limit), then per asset the weight and the
    unrealised profit over the value at entry, times 5.
    """

    shared: ClassVar[bool] = False

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, 5 + 2 A]`."""
        weights = account.weights(market.mid)
        leverage = total(jnp.abs(weights), 1)
        growth = jnp.log(account.safe_equity / account.initial_equity)
        profit = jnp.sign(account.positions) * (market.mid / jnp.maximum(account.entry_price, 1.0) - 1.0)
        own = [
            account.cash / account.safe_equity,
            leverage,
            5.0 * growth,
            5.0 * account.drawdown,
            1.0 - leverage / jnp.maximum(account.limits.leverage(), 1e-3),
        ]
        return jnp.concatenate([jnp.stack(own, axis=1), weights, 5.0 * profit], axis=1)


class AuctionBook(Observation):
    """What the last auction told. `D = 7 A`, by feature, then asset.

    The last return and the half-spread, in units of `unit_bps`; imbalance over the lots wanted or offered; the
    logarithms (of one plus lots, over `log_lots`) of volume and of unfilled bids and asks near the price; and how far
    the middle of the best unfilled quotes lies from the price, in units of `unit_bps`, 0 where a side has none.
    """

    unit_bps: float = 10.0
    log_lots: float = 5.0

    @property
    def lookback(self) -> int:
        """The last close and the one before it."""
        return 2

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)
        expect_range(f"{where}.log_lots", self.log_lots, 1e-3, 100.0)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[7 * A]`."""
        if market.book is None:
            raise ValueError("observation 'auction_book': the mechanism shows no book; use it with a call_auction")
        book, close = market.book, market.window.close
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        price = book.price_ticks.astype(jnp.float32)
        both = (book.best_bid_ticks > 0) & (book.best_ask_ticks > 0)
        middle = 0.5 * (book.best_bid_ticks + book.best_ask_ticks)
        amounts = [jnp.log1p(x) / self.log_lots for x in (book.volume_lots, book.bid_lots, book.ask_lots)]
        one_sided = book.imbalance_lots / (book.volume_lots + jnp.abs(book.imbalance_lots) + 1.0)
        features = [
            (close[-1] / close[-2] - 1.0) * unit,
            book.half_spread_ticks / price * unit,
            one_sided,
            *amounts,
            jnp.where(both, middle / price - 1.0, 0.0) * unit,
        ]
        return jnp.concatenate(features)


class PrivateSignal(Observation):
    """How far the agent's private signal of the value lies above the price, in units of `unit_bps`. `D = A`."""

    shared: ClassVar[bool] = False

    unit_bps: float = 30.0

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, A]`."""
        if account.signal_ticks is None or market.book is None:
            raise ValueError("observation 'private_signal': its role needs signal_noise_bps, and a call_auction")
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        return (account.signal_ticks / market.book.price_ticks - 1.0) * unit


class Inventory(Observation):
    """The agent's position over the largest one it may hold, and cash over equity minus 1. `D = A + 1`."""

    shared: ClassVar[bool] = False

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, A + 1]`."""
        share = account.positions / jnp.asarray(account.limits.max_position_lots)[:, None]
        return jnp.concatenate([share, (account.cash / account.safe_equity - 1.0)[:, None]], axis=1)


class OwnOrders(Observation):
    """The agent's own order slots: filled in the last auction, resting, and how far from the price. `D = 4 A K`.

    By feature, then asset, then slot: lots filled over `lots`, lots resting over `lots`, distance of the resting
    limit from the price in units of `unit_bps`, and auctions that it has rested for, over ten: its place in the queue
    where time has priority.
    """

    shared: ClassVar[bool] = False

    lots: float = 10.0
    unit_bps: float = 10.0

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.lots", self.lots, 1e-3, 1e9)
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, 4 * A * K]`."""
        if account.orders is None or market.book is None:
            raise ValueError("observation 'own_orders': orders do not last in this market; use it with a call_auction")
        own, n = account.orders, account.positions.shape[0]
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        away = own.resting_ticks / market.book.price_ticks[:, None] - 1.0
        features = [
            own.filled_lots / self.lots,
            own.resting_lots / self.lots,
            jnp.where(own.resting_lots != 0, away, 0.0) * unit,
            own.resting_age / 10.0,
        ]
        return jnp.concatenate([feature.reshape(n, -1) for feature in features], axis=1)


def join(blocks: tuple[Observation, ...], market: MarketView, account: AccountView) -> jax.Array:
    """One role's observation, `[n, D]`: shared blocks first, broadcast as late as possible, then own ones."""
    n = account.positions.shape[0]
    shared = [_bounded(block.observe(market, account)) for block in blocks if block.shared]
    own = [_bounded(block.observe(market, account)) for block in blocks if not block.shared]
    if shared:
        common = once(jnp.concatenate(shared))  # per market, not per agent
        own = [jnp.broadcast_to(common, (n, common.size)), *own]
    return jnp.concatenate(own, axis=1)


def ordered(blocks: tuple[Observation, ...]) -> list[Observation]:
    """The blocks in the order of their slices."""
    return sorted(blocks, key=lambda block: not block.shared)


def _bounded(values: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(values), 0.0, jnp.clip(values, -LIMIT, LIMIT))
