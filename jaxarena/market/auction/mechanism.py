"""The call auction as a mechanism: resting orders, a reference price that moves with the market, and marks.

Belongs here: what an auction remembers and shows between steps. Does not belong here: the rule itself (`clearing`),
money (`ledger`), what accounts can carry (`margin`).
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range, expect_shape
from jaxarena.core.money import Money
from jaxarena.core.once import once
from jaxarena.core.reduce import fold, total
from jaxarena.core.tree import Record, static
from jaxarena.core.types import KEEP, Bar, BookView, Fills, Orders, OwnOrders, Quote
from jaxarena.market.auction.clearing import (
    MAX_SIDE_LOTS,
    Book,
    Crossing,
    largest_order,
    match,
    refusals,
    shuffled,
)
from jaxarena.market.costs import BPS
from jaxarena.market.mechanism import Mechanism
from jaxarena.market.processes import MAX_TICKS

Rationing = Literal["pro_rata", "time"]


class Resting(Record):
    """Orders that stay in the book between auctions, `[N, A, K]` int32 each."""

    lots: jax.Array  # signed, still unfilled
    limit_ticks: jax.Array
    entered: jax.Array  # auction in which they came


class AuctionState(Record):
    """What a call auction remembers between steps."""

    book: BookView  # what everybody sees
    mark_ticks: jax.Array  # [A] int32, the last price at which enough lots traded
    filled: jax.Array  # [N, A, K] int32 signed lots of the last auction
    resting: Resting | None  # None where orders last for one auction
    auctions: jax.Array  # [] int32 auctions so far


class CallAuction(Mechanism):
    """All orders of a step meet at one price per asset; the agents make the price.

    The rule is `clear`. A market order is a limit order `collar_bps` beyond the reference. The reference is the last
    price; where nothing trades it moves to the nearest price that the quotes leave open. Positions are marked at the
    last price at which at least `mark_volume` lots traded, less the recent average half-spread that closing pays. An
    order that did not cross the reference when the auction was held provides liquidity (maker), one that did takes it.
    """

    makes_price: ClassVar[bool] = True

    rationing: Rationing = static(default="pro_rata")
    time_in_force: int = static(default=1)  # auctions that an order lasts for
    collar_bps: float = 1_000.0  # how far beyond the reference a market order may fill
    mark_volume: int = 1  # lots that must trade for a new mark
    depth_ticks: int = 20  # distance from the price up to which unfilled lots count as depth
    spread_memory: float = 0.9  # share of the average half-spread that survives an auction

    def init(self, opening_ticks: jax.Array, n_agents: int, n_slots: int) -> AuctionState:
        """An empty book at the opening price."""
        nothing, slots = jnp.zeros_like(opening_ticks), (n_agents, opening_ticks.size, n_slots)
        empty = jnp.zeros(slots, jnp.int32)
        book = BookView(
            price_ticks=opening_ticks,
            volume_lots=nothing,
            imbalance_lots=nothing,
            best_bid_ticks=nothing,
            best_ask_ticks=nothing,
            bid_lots=nothing,
            ask_lots=nothing,
            half_spread_ticks=jnp.ones(opening_ticks.shape, jnp.float32),
        )
        return AuctionState(
            book=book,
            mark_ticks=opening_ticks,
            filled=empty,
            resting=Resting(lots=empty, limit_ticks=empty, entered=empty) if self.time_in_force > 1 else None,
            auctions=jnp.zeros((), jnp.int32),
        )

    def admit(self, state: AuctionState, orders: Orders, quote: Quote) -> tuple[AuctionState, Orders, jax.Array]:
        """Put a collar on market orders, join what rests, refuse what `clear` would refuse."""
        lots, reference = orders.lots, state.book.price_ticks[:, None]
        reach = jnp.maximum(reference * (jnp.asarray(self.collar_bps) * jnp.float32(BPS)), 1.0)
        collared = jnp.where(lots > 0, jnp.minimum(reference + reach, MAX_TICKS), jnp.maximum(reference - reach, 1.0))
        limits = jnp.where(orders.limit_ticks == 0, collared.astype(jnp.int32), orders.limit_ticks)
        refused = refusals(lots, limits)
        lots = jnp.where(refused, 0, lots)
        if state.resting is not None:
            rests = state.resting
            stays = (lots == 0) & (orders.limit_ticks == KEEP)
            lasts = state.auctions - rests.entered < self.time_in_force
            lots = jnp.where(stays, jnp.where(lasts, rests.lots, 0), lots)
            limits = jnp.where(stays, rests.limit_ticks, limits)
            entered = jnp.where(stays, rests.entered, state.auctions)
            state = state.replace(resting=rests.replace(entered=entered))
        return state, orders.replace(lots=lots, limit_ticks=limits), total(total(refused.astype(jnp.int32), 2), 1)

    def clear(
        self, key: jax.Array, state: AuctionState, orders: Orders, quote: Quote, tick_value: jax.Array
    ) -> tuple[AuctionState, Fills, Bar]:
        """See `Mechanism.clear`."""
        expect_shape("orders.limit_ticks", orders.limit_ticks, orders.lots.shape)
        before = state.book.price_ticks
        book, self_matched = Book.of(orders)
        entered = None
        if self.rationing == "time":
            entered = orders.to_rows(jnp.zeros_like(orders.lots) if state.resting is None else state.resting.entered)
        crossing, lots = match(book, before, shuffled(key, book.size.shape), entered)
        provided = jnp.where(book.buys, book.edge <= before, book.edge >= before - 1)
        parts = jnp.where(book.buys, lots, 0), jnp.where(book.buys, 0, lots), jnp.where(provided, lots, 0)
        bought, sold, maker_lots = once(tuple(orders.by_agent(part) for part in parts))
        fills = Fills(
            bought=bought,
            sold=sold,
            cash=Money.of_lots(crossing.price, sold - bought, tick_value),
            maker_lots=maker_lots,
            taker_lots=bought + sold - maker_lots,
            orders_rejected=jnp.zeros(bought.shape[0], jnp.int32),
            self_matched=total(orders.by_agent(self_matched.astype(jnp.int32)), 1),
        )
        price, volume = crossing.price, crossing.volume
        left = book.replace(size=once(book.size - lots))
        resting = state.resting
        if resting is not None:
            unfilled = orders.from_rows(left.signed(left.size))
            resting = resting.replace(lots=unfilled, limit_ticks=orders.limit_ticks)
        after = AuctionState(
            book=self._seen(state.book, left, crossing),
            mark_ticks=jnp.where(volume >= jnp.maximum(self.mark_volume, 1), price, state.mark_ticks),
            filled=orders.from_rows(book.signed(lots)),
            resting=resting,
            auctions=state.auctions + 1,
        )
        high, low = jnp.maximum(before, price), jnp.minimum(before, price)
        return after, fills, Bar(open=before, high=high, low=low, close=price, volume=volume.astype(jnp.float32))

    def price_range(self, state: AuctionState, orders: Orders, quote: Quote) -> tuple[jax.Array, ...]:
        """Each agent's own limits."""
        mark = state.mark_ticks.astype(jnp.float32)
        buys = jnp.where(orders.lots > 0, orders.limit_ticks, 0)
        sells = jnp.where(orders.lots < 0, orders.limit_ticks, MAX_TICKS)
        return fold(jnp.minimum, sells, 2).astype(jnp.float32), mark, fold(jnp.maximum, buys, 2).astype(jnp.float32)

    def mid(self, state: AuctionState, quote: Quote) -> jax.Array:
        """The mark: the last price at which enough lots traded."""
        return state.mark_ticks.astype(jnp.float32)

    def settlement_ticks(self, state: AuctionState, quote: Quote) -> jax.Array:
        """The mark."""
        return state.mark_ticks

    def closing_prices(self, state: AuctionState, lots: jax.Array, quote: Quote) -> jax.Array:
        """The mark less the recent half-spread for what is long, plus it for what is short."""
        return jnp.maximum(state.mark_ticks - jnp.sign(lots) * state.book.half_spread_ticks, 0.0)

    def book(self, state: AuctionState) -> BookView:
        """See `Mechanism.book`."""
        return state.book

    def own(self, state: AuctionState) -> OwnOrders:
        """See `Mechanism.own`."""
        nothing = jnp.zeros_like(state.filled)
        if state.resting is None:
            return OwnOrders(filled_lots=state.filled, resting_lots=nothing, resting_ticks=nothing, resting_age=nothing)
        rests = state.resting
        age = jnp.where(rests.lots != 0, state.auctions - rests.entered, 0)
        ticks = jnp.where(rests.lots != 0, rests.limit_ticks, 0)
        return OwnOrders(filled_lots=state.filled, resting_lots=rests.lots, resting_ticks=ticks, resting_age=age)

    def validate(self) -> None:
        """See `Mechanism.validate`."""
        expect_range("mechanism.time_in_force", self.time_in_force, 1, 2**20)
        expect_range("mechanism.collar_bps", self.collar_bps, 1.0, 9_000.0)
        expect_range("mechanism.mark_volume", self.mark_volume, 1, MAX_SIDE_LOTS)
        expect_range("mechanism.depth_ticks", self.depth_ticks, 0, MAX_TICKS)
        expect_range("mechanism.spread_memory", self.spread_memory, 0.0, 1.0)

    def validate_orders(self, n_agents: int, n_slots: int, max_position_lots: int) -> None:
        """See `Mechanism.validate_orders`."""
        most = largest_order(n_agents, n_slots)
        if 2 * max_position_lots > most:  # an order may turn a position around
            raise ValueError(
                f"limits.max_position_lots: got {max_position_lots}, but {n_agents} agents with {n_slots} order slots "
                f"allow {most // 2} in a call auction; lower it"
            )

    def _seen(self, before: BookView, left: Book, crossing: Crossing) -> BookView:
        """What is shown after an auction that left these orders unfilled."""
        best_bid, best_ask = jnp.maximum(left.best_bid(), 0), left.best_ask()
        best_ask = jnp.where(best_ask > MAX_TICKS, 0, best_ask)
        both = (best_bid > 0) & (best_ask > 0)
        half = jnp.maximum(best_ask - best_bid, 0) * 0.5
        pace = jnp.where(both, 1.0 - jnp.asarray(self.spread_memory), 0.0)
        open_price = jnp.maximum(crossing.price, best_bid)  # only matters where nothing traded: no bid reaches an ask
        open_price = jnp.where(best_ask > 0, jnp.minimum(open_price, best_ask), open_price)
        reference = jnp.where(crossing.volume > 0, crossing.price, open_price)

        def near(rows: Book, price: jax.Array) -> jax.Array:
            return jnp.where(jnp.abs(rows.edge - price) <= self.depth_ticks, rows.size, 0)

        return BookView(
            price_ticks=reference,
            volume_lots=crossing.volume,
            imbalance_lots=crossing.imbalance,
            best_bid_ticks=best_bid,
            best_ask_ticks=best_ask,
            bid_lots=left.total(lambda rows: jnp.where(rows.buys, near(rows, reference), 0)),
            ask_lots=left.total(lambda rows: jnp.where(rows.buys, 0, near(rows, reference - 1))),
            half_spread_ticks=before.half_spread_ticks + pace * (half - before.half_spread_ticks),
        )
