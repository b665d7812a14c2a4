"""The records that pass between layers.

Shape letters used everywhere: `S` seed, `T` time, `E` market, `N` agent, `A` asset, `K` order
slot, `W` bar of a window, `D` feature. Library functions are written for one market. Buying is
positive, selling negative. Prices are int32 ticks, quantities int32 lots.
"""

from collections.abc import Sequence
from itertools import groupby

import jax
import jax.numpy as jnp

from jaxarena.core.money import Money
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record, static


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
    groups: tuple[tuple[int, int], ...] = static(default=())  # (agents, slots they use), in order; () if all use `K`

    @staticmethod
    def market(lots: jax.Array) -> "Orders":
        """One market order per agent and asset, `[N, A]` int32 lots."""
        return Orders(lots=lots[..., None], limit_ticks=jnp.zeros_like(lots)[..., None])

    @staticmethod
    def join(parts: Sequence["Orders"]) -> "Orders":
        """Orders of groups of agents, one group after the other; `K` is the most slots that a group has."""
        padded = [part.pad(max(part.lots.shape[2] for part in parts)) for part in parts]
        alike = groupby(parts, key=lambda part: part.lots.shape[2])
        return Orders(
            lots=jnp.concatenate([part.lots for part in padded]),
            limit_ticks=jnp.concatenate([part.limit_ticks for part in padded]),
            groups=tuple((sum(len(part.lots) for part in group), slots) for slots, group in alike),
        )

    def pad(self, n_slots: int) -> "Orders":
        """The same orders with empty slots behind them, `[N, A, n_slots]`."""
        return self.replace(lots=_pad(self.lots, n_slots), limit_ticks=_pad(self.limit_ticks, n_slots))

    def overrule(self, chosen: jax.Array, lots: jax.Array) -> "Orders":
        """The chosen agents, `[N]` bool, send market orders of `lots`, `[N, A]` int32, and nothing else."""
        chosen, first = chosen[:, None, None], jnp.arange(self.lots.shape[2]) == 0
        return self.replace(
            lots=jnp.where(chosen, jnp.where(first, lots[..., None], 0), self.lots),
            limit_ticks=jnp.where(chosen, 0, self.limit_ticks),
        )

    def split(self, array: jax.Array) -> list[jax.Array]:
        """An array like `lots` by groups of agents with as many slots: `[N, A, K]` to `[agents, slots, A]` each."""
        blocks, first = [], 0
        for agents, slots in self._groups():
            blocks.append(jnp.swapaxes(array[first : first + agents, :, :slots], 1, 2))
            first += agents
        return blocks

    def to_rows(self, array: jax.Array) -> jax.Array:
        """The slots in use of an array like `lots`, agent after agent: `[N, A, K]` to `[R, A]`."""
        return join_rows(self.split(array))

    def split_rows(self, rows: jax.Array) -> list[jax.Array]:
        """Rows by groups, `[R, A]` to `[agents, slots, A]` each."""
        blocks, first = [], 0
        for agents, slots in self._groups():
            blocks.append(rows[first : first + agents * slots].reshape(agents, slots, -1))
            first += agents * slots
        return blocks

    def from_rows(self, rows: jax.Array) -> jax.Array:
        """`[R, A]` to `[N, A, K]`, zero in slots that nobody uses."""
        slots = self.lots.shape[2]
        return jnp.concatenate([_pad(jnp.swapaxes(block, 1, 2), slots) for block in self.split_rows(rows)])

    def by_agent(self, rows: jax.Array) -> jax.Array:
        """Sum of the rows of each agent, `[R, A]` to `[N, A]`."""
        return jnp.concatenate([total(block, 1) for block in self.split_rows(rows)])

    def _groups(self) -> tuple[tuple[int, int], ...]:
        return self.groups or ((self.lots.shape[0], self.lots.shape[2]),)


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


def join_rows(blocks: Sequence[jax.Array]) -> jax.Array:
    """Groups of `[agents, slots, A]` as rows, `[R, A]`."""
    return jnp.concatenate([block.reshape(-1, block.shape[2]) for block in blocks])


def _pad(array: jax.Array, n_slots: int) -> jax.Array:
    """`[N, A, k]` to `[N, A, n_slots]`, with zeros behind."""
    more = n_slots - array.shape[2]
    return jnp.pad(array, ((0, 0), (0, 0), (0, more))) if more else array
