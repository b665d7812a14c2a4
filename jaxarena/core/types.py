"""The records that pass between layers.

Shape letters used everywhere: `S` seed, `T` time, `E` market, `N` agent, `A` asset, `K` order
slot, `W` bar of a window, `D` feature. Library functions are written for one market. Buying is
positive, selling negative. Prices are int32 ticks, quantities int32 lots.
"""

import jax
import jax.numpy as jnp

from jaxarena.core.money import Money
from jaxarena.core.tree import Record


class Bar(Record):
    """One trading period of every asset."""

    open: jax.Array  # [A] int32 ticks
    high: jax.Array  # [A] int32 ticks
    low: jax.Array  # [A] int32 ticks
    close: jax.Array  # [A] int32 ticks
    volume: jax.Array  # [A] float32 lots


class Quote(Record):
    """What a mechanism knows of the outside market when it clears: exogenous prices and their liquidity."""

    previous_close: jax.Array  # [A] int32 ticks, the last exogenous price that agents saw
    bar: Bar  # the exogenous bar in which the orders fill, hidden from agents until then
    depth_lots: jax.Array  # [A] float32 lots, reference volume, constant within an episode
    volatility: jax.Array  # [A] float32 standard deviation of log returns per step


#: As the limit of an empty slot: what rests there from earlier steps stays. Any other order takes its place.
KEEP = -1


class Orders(Record):
    """Orders of all agents of one market, or of some of them.

    An agent has `K` slots per asset. In a market where orders rest, an order takes the place of what rests in its
    slot, an empty slot cancels it, and an empty slot with the limit `KEEP` leaves it there.
    """

    lots: jax.Array  # [N, A, K] int32, buy +, sell -, 0 for an empty slot
    limit_ticks: jax.Array  # [N, A, K] int32 ticks; 0 marks a market order

    @staticmethod
    def market(lots: jax.Array) -> "Orders":
        """One market order per agent and asset, `[N, A]` int32 lots."""
        return Orders(lots=lots[..., None], limit_ticks=jnp.zeros_like(lots)[..., None])

    def pad(self, n_slots: int) -> "Orders":
        """The same orders with empty slots behind them, `[N, A, n_slots]`."""
        width = ((0, 0), (0, 0), (0, n_slots - self.lots.shape[2]))
        return self if not width[2][1] else jax.tree.map(lambda leaf: jnp.pad(leaf, width), self)


class Fills(Record):
    """What the mechanism did with the orders. A fill over several levels has no single price: derive it from cash."""

    bought: jax.Array  # [N, A] int32 lots
    sold: jax.Array  # [N, A] int32 lots
    cash: Money  # [N, A] received +, paid -, before fees
    maker_lots: jax.Array  # [N, A] int32 lots that provided liquidity
    taker_lots: jax.Array  # [N, A] int32 lots that took liquidity
    orders_rejected: jax.Array  # [N] int32 orders that the mechanism does not take
    self_matched: jax.Array  # [N] int32 orders cancelled because they crossed another one of the same agent


class BookView(Record):
    """What everybody sees after an auction, `[A]` each."""

    price_ticks: jax.Array  # int32, the reference: the last price, or where the quotes have moved it
    volume_lots: jax.Array  # int32 traded in the last auction
    imbalance_lots: jax.Array  # int32 wanted minus offered at its price
    best_bid_ticks: jax.Array  # int32 of the orders that were left unfilled; 0 if there were none
    best_ask_ticks: jax.Array  # int32, likewise
    bid_lots: jax.Array  # int32 unfilled, within the mechanism's `depth_ticks` of the price
    ask_lots: jax.Array  # int32, likewise
    half_spread_ticks: jax.Array  # float32 recent average of half the distance between best ask and best bid


class OwnOrders(Record):
    """What `n` agents see of their own orders after an auction, `[n, A, K]` int32 each."""

    filled_lots: jax.Array  # signed, in the last auction
    resting_lots: jax.Array  # signed, still in the book
    resting_ticks: jax.Array  # limits of those
    resting_age: jax.Array  # auctions that they have rested for
