"""What agents may see: computed once per market, never from a bar that has not happened.

Belongs here: the records that strategies, actions, observations and rewards read.
"""

import jax
import jax.numpy as jnp

from jaxarena.core.tree import Record
from jaxarena.core.types import BookView, OwnOrders
from jaxarena.market.indicators import Window
from jaxarena.market.margin import RiskLimits

#: Ratios and logarithms take equity to be at least this fraction of its start.
EQUITY_FLOOR = 1e-3


class MarketView(Record):
    """What everybody in a market sees at bar t."""

    window: Window  # the last W traded bars
    features: tuple[jax.Array, ...]  # of each indicator, [F, A] float32
    mid: jax.Array  # [A] float32 value of one lot in quanta
    depth_lots: jax.Array  # [A] float32 lots
    flow: jax.Array  # [A] float32 recent net flow of all agents over depth, exponentially weighted
    signal: jax.Array | None  # [A] float32 public announcement, if the process makes one
    step: jax.Array  # [] int32 steps since the start of the episode
    time_left: jax.Array  # [] float32 share of the episode still ahead
    book: BookView | None = None  # after the last auction, where the agents make the price
    tick_value: jax.Array | None = None  # [] or [A] int32 quanta per tick and lot


class AccountView(Record):
    """What each of `n` agents sees of its own account at bar t, in float32."""

    positions: jax.Array  # [n, A] int32 lots
    cash: jax.Array  # [n] quanta
    equity: jax.Array  # [n] quanta, marked net of the cost of closing
    initial_equity: jax.Array  # [n] quanta
    peak_equity: jax.Array  # [n] quanta
    entry_price: jax.Array  # [n, A] quanta per lot, average price paid for the open position
    limits: RiskLimits  # [n]
    traits: jax.Array | None = None  # [n, P] uniform numbers in (0, 1), drawn once an episode: who the agent is
    signal_ticks: jax.Array | None = None  # [n, A] float32 private signal of the hidden value
    private_value: jax.Array | None = None  # [n] float32 what an asset is worth to the agent above its value, a share
    orders: OwnOrders | None = None  # after the last auction, where the agents make the price

    def values(self, mid: jax.Array) -> jax.Array:
        """Signed value of each position at the mid, `[n, A]` quanta."""
        return self.positions * mid

    def weights(self, mid: jax.Array) -> jax.Array:
        """Signed value of each position over equity, `[n, A]`; bounded for accounts near ruin."""
        return self.values(mid) / self.safe_equity[:, None]

    @property
    def safe_equity(self) -> jax.Array:
        """Equity, at least a thousandth of its start, so that ratios stay finite; `[n]`."""
        return jnp.maximum(self.equity, EQUITY_FLOOR * self.initial_equity)

    @property
    def drawdown(self) -> jax.Array:
        """`1 - equity / peak`, `[n]`, between 0 and 1."""
        return drawdown_of(self.equity, self.peak_equity)


def drawdown_of(equity: jax.Array, peak_equity: jax.Array) -> jax.Array:
    """`1 - equity / peak`, between 0 and 1."""
    return jnp.clip(1.0 - equity / peak_equity, 0.0, 1.0)
