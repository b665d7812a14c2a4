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


class Orders(Record):
    """Orders of all agents of one market."""

    lots: jax.Array  # [N, A, K] int32, buy +, sell -
    limit_ticks: jax.Array  # [N, A, K] int32 ticks; 0 marks a market order

    @staticmethod
    def market(lots: jax.Array) -> "Orders":
        """One market order per agent and asset, `[N, A]` int32 lots."""
        return Orders(lots=lots[..., None], limit_ticks=jnp.zeros_like(lots)[..., None])


class Fills(Record):
    """What the mechanism did with the orders. A fill over several levels has no single price: derive it from cash."""

    bought: jax.Array  # [N, A] int32 lots
    sold: jax.Array  # [N, A] int32 lots
    cash: Money  # [N, A] received +, paid -, before fees
    maker_lots: jax.Array  # [N, A] int32 lots that provided liquidity
    taker_lots: jax.Array  # [N, A] int32 lots that took liquidity
    orders_rejected: jax.Array  # [N] int32 orders of a type that the mechanism does not take
