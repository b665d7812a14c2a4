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
