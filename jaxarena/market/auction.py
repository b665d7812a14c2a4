"""The call auction: everybody's limit orders meet at one price, found anew in every step.

`clear` is the rule alone, on arrays of orders of one market; `CallAuction` is the mechanism made of it, with
resting orders, a reference price that moves with the market, and marks. Nothing here sorts, and no grid of prices
bounds anything: demand and supply are step functions of the price, and bisection on them is exact at every price
there is. Belongs here: the auction. Does not belong here: money (`ledger`), what accounts can carry (`margin`).
Sources: Budish, Cramton and Shim (2015) for frequent batch auctions; the order of the rules for the price (volume,
imbalance, reference) is the one of exchanges' opening auctions.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range, expect_shape
from jaxarena.core.draws import bits
from jaxarena.core.money import Money
from jaxarena.core.once import once
from jaxarena.core.reduce import fold, total
from jaxarena.core.tree import Record, static
from jaxarena.core.types import KEEP, Bar, BookView, Fills, Orders, OwnOrders, Quote
from jaxarena.market.costs import BPS
from jaxarena.market.mechanism import Mechanism
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS

#: Lots of one side of one auction stay below this, so that sums and remainders fit 32 bits.
MAX_SIDE_LOTS = 2**30

Rationing = Literal["pro_rata", "time"]


class Cleared(Record):
    """What one auction of every asset came to."""

    price_ticks: jax.Array  # [A] int32; the reference where nothing traded
    volume_lots: jax.Array  # [A] int32 lots bought, which are the lots sold
    imbalance_lots: jax.Array  # [A] int32 lots wanted at the price minus lots offered at it
    filled: jax.Array  # [N, A, K] int32 signed lots
    refused: jax.Array  # [N, A, K] bool: a limit outside the range of prices, or too many lots
    self_matched: jax.Array  # [N, A, K] bool: cancelled, because it crossed an order of the same agent


def clear(
    lots: jax.Array,
    limit_ticks: jax.Array,
    reference_ticks: jax.Array,
    priority: jax.Array,
    entered: jax.Array | None = None,
) -> Cleared:
    """Match all orders of one market at one price per asset.

    1. An order is refused whose limit is not 0 or in `[MIN_TICKS, MAX_TICKS]`, or whose size exceeds
       `largest_order(N, K)` lots. A market order (limit 0) is a limit order at the last price there is on its side.
    2. Orders of one agent that cross each other are cancelled, on both sides: buys with a limit at or above its
       lowest sell, sells with a limit at or below its highest buy.
    3. With `D(p)` the lots of buys limited at `p` or higher and `S(p)` those of sells limited at `p` or lower, the
       price maximises the volume `min(D, S)`; among those prices it minimises `|D - S|`; among those it is the
       nearest to the reference. Where nothing can trade it is the reference.
    4. Better prices fill first. On the side that is longer, the orders at the last price that is reached share what
       is left. Pro rata (`entered` is None): each gets `floor(lots * rest / sum)`, and the lots that remain go one
       each to the largest remainders, equal ones by lower `priority`. Time priority: earlier `entered` first, then
       lower `priority`.

    Args:
        lots: `[N, A, K]` int32 signed lots, buy positive; 0 for an empty slot.
        limit_ticks: `[N, A, K]` int32 ticks; 0 marks a market order.
        reference_ticks: `[A]` int32 ticks.
        priority: `[N, A, K]` int32 in `[0, 2**30)`, all different within an asset.
        entered: `[N, A, K]` int32 time at which each order entered, in `[0, 2**30)`, for time priority.

    Returns:
        Price, volume, fills and what was not admitted.

    >>> lots, limits = jnp.array([[[5]], [[5]], [[-4]]]), jnp.array([[[101]], [[101]], [[99]]])
    >>> cleared = clear(lots, limits, jnp.array([100]), jnp.arange(3)[:, None, None])
    >>> int(cleared.price_ticks[0]), cleared.filled[:, 0, 0].tolist()
    (100, [2, 2, -4])
    """
    expect_shape("limit_ticks", limit_ticks, lots.shape)
    expect_shape("priority", priority, lots.shape)
    expect_shape("reference_ticks", reference_ticks, lots.shape[1:2])
    refused = refusals(lots, limit_ticks)
    admitted = jnp.where(refused, 0, lots)
    self_matched = self_matches(admitted, limit_ticks)
    admitted = jnp.where(self_matched, 0, admitted)
    price, volume, imbalance, filled = _match(admitted, limit_ticks, reference_ticks, priority, entered)
    return Cleared(
        price_ticks=price,
        volume_lots=volume,
        imbalance_lots=imbalance,
        filled=filled,
        refused=refused,
        self_matched=self_matched,
    )


def largest_order(n_agents: int, n_slots: int) -> int:
    """Most lots that one order may have, so that a side stays below `MAX_SIDE_LOTS` whoever orders."""
    return (MAX_SIDE_LOTS - 1) // (n_agents * n_slots)


def refusals(lots: jax.Array, limit_ticks: jax.Array) -> jax.Array:
    """Orders that cannot enter an auction (rule 1 of `clear`), `[N, A, K]` bool."""
    most = largest_order(lots.shape[0], lots.shape[2])
    priced = (limit_ticks == 0) | ((limit_ticks >= MIN_TICKS) & (limit_ticks <= MAX_TICKS))
    sized = (lots <= most) & (lots >= -most)
    return (lots != 0) & ~(priced & sized)


def self_matches(lots: jax.Array, limit_ticks: jax.Array) -> jax.Array:
    """Orders that cross another order of the same agent (rule 2 of `clear`), `[N, A, K]` bool."""
    if lots.shape[2] == 1:
        return jnp.zeros(lots.shape, bool)
    price = _priced(lots, limit_ticks)
    lowest_sell = fold(jnp.minimum, jnp.where(lots < 0, price, MAX_TICKS + 1), 2)[..., None]
    highest_buy = fold(jnp.maximum, jnp.where(lots > 0, price, MIN_TICKS - 1), 2)[..., None]
    return ((lots > 0) & (price >= lowest_sell)) | ((lots < 0) & (price <= highest_buy))


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
        return state, Orders(lots=lots, limit_ticks=limits), total(total(refused.astype(jnp.int32), 2), 1)

    def clear(
        self, key: jax.Array, state: AuctionState, orders: Orders, quote: Quote, tick_value: jax.Array
    ) -> tuple[AuctionState, Fills, Bar]:
        """See `Mechanism.clear`."""
        expect_shape("orders.limit_ticks", orders.limit_ticks, orders.lots.shape)
        before, crossed = state.book.price_ticks, self_matches(orders.lots, orders.limit_ticks)
        lots, limits = jnp.where(crossed, 0, orders.lots), orders.limit_ticks
        entered = state.resting.entered if state.resting is not None and self.rationing == "time" else None
        if self.rationing == "time" and entered is None:
            entered = jnp.zeros_like(lots)
        price, volume, imbalance, filled = _match(lots, limits, before, _shuffled(key, lots.shape), entered)
        bought, sold = total(jnp.maximum(filled, 0), 2), total(jnp.maximum(-filled, 0), 2)
        passive = jnp.where(filled > 0, limits <= before[:, None], limits >= before[:, None])
        provided = total(jnp.where(passive, jnp.abs(filled), 0), 2)
        fills = Fills(
            bought=bought,
            sold=sold,
            cash=Money.of_lots(price, sold - bought, tick_value),
            maker_lots=provided,
            taker_lots=bought + sold - provided,
            orders_rejected=jnp.zeros(lots.shape[0], jnp.int32),
            self_matched=total(total(crossed.astype(jnp.int32), 2), 1),
        )
        book = self._seen(state.book, lots - filled, limits, price, volume, imbalance)
        after = AuctionState(
            book=book,
            mark_ticks=jnp.where(volume >= jnp.maximum(self.mark_volume, 1), price, state.mark_ticks),
            filled=filled,
            resting=state.resting and state.resting.replace(lots=lots - filled, limit_ticks=limits),
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

    def _seen(
        self,
        before: BookView,
        left: jax.Array,
        limits: jax.Array,
        price: jax.Array,
        volume: jax.Array,
        imbalance: jax.Array,
    ) -> BookView:
        """What is shown after an auction that left these lots unfilled."""
        rest = _Book(lots=_rows(left), price=_rows(limits))
        best_bid, best_ask = rest.highest(rest.lots > 0), rest.lowest(rest.lots < 0)
        best_ask = jnp.where(best_ask > MAX_TICKS, 0, best_ask)
        both = (best_bid > 0) & (best_ask > 0)
        half = jnp.maximum(best_ask - best_bid, 0) * 0.5
        pace = jnp.where(both, 1.0 - jnp.asarray(self.spread_memory), 0.0)
        open_price = jnp.maximum(price, best_bid)  # only matters where nothing traded: then no bid reaches an ask
        open_price = jnp.where(best_ask > 0, jnp.minimum(open_price, best_ask), open_price)
        reference = jnp.where(volume > 0, price, open_price)
        near = (rest.price >= reference - self.depth_ticks) & (rest.price <= reference + self.depth_ticks)
        return BookView(
            price_ticks=reference,
            volume_lots=volume,
            imbalance_lots=imbalance,
            best_bid_ticks=best_bid,
            best_ask_ticks=best_ask,
            bid_lots=total(jnp.where(near & (rest.lots > 0), rest.lots, 0)),
            ask_lots=total(jnp.where(near & (rest.lots < 0), -rest.lots, 0)),
            half_spread_ticks=before.half_spread_ticks + pace * (half - before.half_spread_ticks),
        )


def _match(
    lots: jax.Array, limit_ticks: jax.Array, reference: jax.Array, priority: jax.Array, entered: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Rules 3 and 4 of `clear`: price, volume and imbalance, `[A]` each, and signed fills, `[N, A, K]`."""
    book = once(_Book.of(lots, limit_ticks))
    crossing = once(_crossing(book, reference))
    rest = _ration(book, crossing, once(_rows(priority)), None if entered is None else _rows(entered))
    filled = _slots(jnp.where(book.full(crossing), book.lots, rest), lots.shape)
    return once((crossing.price, crossing.volume, book.excess(crossing.price), filled))


def _shuffled(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Different numbers in random order, all below the next power of two of the size. key: consumed.

    Two rounds of an odd multiplication, an addition and a shift, modulo a power of two: each is a bijection. Not
    uniform over all orders, which would need a sort; every entry is equally likely to stand before any other.
    """
    size = math.prod(shape)
    width = max((size - 1).bit_length(), 1)
    words = bits(key, (4,))
    x = jnp.arange(size, dtype=jnp.uint32)
    for i in range(2):
        x = (x * (words[2 * i] | jnp.uint32(1)) + words[2 * i + 1]) & jnp.uint32(2**width - 1)
        x = x ^ (x >> jnp.uint32((width + 1) // 2))
    return x.astype(jnp.int32).reshape(shape)


class _Crossing(Record):
    """Where demand and supply meet, `[A]` each."""

    price: jax.Array  # int32 ticks
    volume: jax.Array  # int32 lots
    margin: jax.Array  # int32 ticks at which the longer side is rationed
    buys_ration: jax.Array  # bool, the longer side
    rest: jax.Array  # int32 lots for the orders at the margin


class _Book(Record):
    """The orders of one auction as rows, a slot each; `R = N * K`."""

    lots: jax.Array  # [R, A] int32 signed
    price: jax.Array  # [R, A] int32 ticks

    @classmethod
    def of(cls, lots: jax.Array, limit_ticks: jax.Array) -> "_Book":
        """From `[N, A, K]`."""
        return cls(lots=_rows(lots), price=_rows(_priced(lots, limit_ticks)))

    def demand(self, price: jax.Array) -> jax.Array:
        """Lots that buyers want at a price, `[A]`."""
        return total(jnp.where((self.lots > 0) & (self.price >= price), self.lots, 0))

    def supply(self, price: jax.Array) -> jax.Array:
        """Lots that sellers offer at a price, `[A]`."""
        return total(jnp.where((self.lots < 0) & (self.price <= price), -self.lots, 0))

    def excess(self, price: jax.Array) -> jax.Array:
        """Demand minus supply, which falls with the price, `[A]`."""
        willing = jnp.where(self.lots > 0, self.price >= price, self.price <= price)
        return total(jnp.where(willing, self.lots, 0))

    def lowest(self, chosen: jax.Array) -> jax.Array:
        """Lowest price of the chosen rows; above all prices if there is none. `[A]`."""
        return fold(jnp.minimum, jnp.where(chosen, self.price, MAX_TICKS + 1))

    def highest(self, chosen: jax.Array) -> jax.Array:
        """Highest price of the chosen rows; below all prices if there is none. `[A]`."""
        return fold(jnp.maximum, jnp.where(chosen, self.price, MIN_TICKS - 1))

    def full(self, crossing: _Crossing) -> jax.Array:
        """Rows that fill whole, `[R, A]` bool."""
        margin, buys_ration = crossing.margin, crossing.buys_ration
        buys = (self.price > margin) | ((self.price == margin) & ~buys_ration)
        sells = (self.price < margin) | ((self.price == margin) & buys_ration)
        return jnp.where(self.lots > 0, buys, sells) & (crossing.volume > 0)

    def marginal(self, crossing: _Crossing) -> jax.Array:
        """Rows that share what is left, `[R, A]` bool."""
        longer = jnp.where(crossing.buys_ration, self.lots > 0, self.lots < 0)
        return longer & (self.price == crossing.margin) & (crossing.volume > 0)


def _crossing(book: _Book, reference: jax.Array) -> _Crossing:
    """Rule 3 of `clear`.

    Excess demand falls with the price. Below `last`, the last price at which it is not negative, supply limits the
    volume; above it demand does. So the best volume is found at `last` or at the price after it, and the prices that
    are as good as either form an interval that ends there.
    """
    buy, sell = book.lots > 0, book.lots < 0
    best_ask, best_bid = book.lowest(sell), book.highest(buy)
    crossed = best_bid >= best_ask
    low = jnp.where(crossed, best_ask - 1, reference)
    last = _last(lambda p: book.excess(p) >= 0, low, jnp.where(crossed, best_bid + 1, low + 1))
    after = last + 1
    wanted, offered = book.demand(last), book.supply(last)
    wanted_after, offered_after = book.demand(after), book.supply(after)
    volume = jnp.where(crossed, jnp.maximum(offered, wanted_after), 0)
    surplus, shortage = wanted - volume, offered_after - volume  # imbalance at `last` and at the price after it
    at_last, at_after = offered == volume, wanted_after == volume
    take_last = at_last & (~at_after | (surplus <= shortage))
    take_after = at_after & (~at_last | (shortage <= surplus))
    lowest = jnp.maximum(book.highest(sell & (book.price <= last)), book.highest(buy & (book.price < last)) + 1)
    highest = jnp.minimum(book.lowest(buy & (book.price >= after)), book.lowest(sell & (book.price > after)) - 1)
    first = jnp.where(take_last, jnp.maximum(lowest, MIN_TICKS), after)
    final = jnp.where(take_after, jnp.minimum(highest, MAX_TICKS), last)
    price = jnp.where(volume > 0, jnp.clip(reference, first, final), reference)
    buys_ration = take_last & (price <= last)
    return _Crossing(
        price=price,
        volume=volume,
        margin=jnp.where(buys_ration, last, after),
        buys_ration=buys_ration,
        rest=volume - jnp.where(buys_ration, wanted_after, offered),
    )


def _ration(book: _Book, crossing: _Crossing, priority: jax.Array, entered: jax.Array | None) -> jax.Array:
    """Rule 4 of `clear`: signed lots of the rows at the margin, zero for all others, `[R, A]`."""
    marginal = book.marginal(crossing)
    wanted = jnp.where(marginal, jnp.abs(book.lots), 0)
    if entered is not None:
        served = _serve(crossing.rest, wanted, entered - fold(jnp.minimum, entered), priority)
    else:
        everybody = once(total(wanted))  # or the compiler sums again for every row
        share, remainder = once(_proportion(wanted, crossing.rest, jnp.maximum(everybody, 1)))
        left = once(crossing.rest - total(share))
        extra = (remainder > 0).astype(jnp.int32)
        served = share + _serve(left, extra, everybody - remainder, priority)
    return jnp.sign(book.lots) * served


def _proportion(part: jax.Array, rest: jax.Array, whole: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`part * rest // whole` and `part * rest % whole` for `0 <= part, rest <= whole < 2**30`, exactly.

    The quotient is taken in float64, off by one at most; the remainder follows modulo 2**32 and corrects it.
    """
    with jax.enable_x64(True):
        ratio = rest.astype(jnp.float64) / whole.astype(jnp.float64)
        quotient = (part.astype(jnp.float64) * ratio).astype(jnp.int32)
    remainder = part * rest - quotient * whole
    high, low = (remainder >= whole).astype(jnp.int32), (remainder < 0).astype(jnp.int32)
    return quotient + high - low, remainder + (low - high) * whole


def _serve(budget: jax.Array, wanted: jax.Array, rank: jax.Array, priority: jax.Array) -> jax.Array:
    """Give each row what it wants, lower rank first, then lower priority, until the budget is used up.

    Args:
        budget: `[A]` int32.
        wanted: `[R, A]` int32; rows that want nothing get nothing.
        rank: `[R, A]` int32, not negative.
        priority: `[R, A]` int32, not negative, all different.
    """
    asks = wanted > 0
    top = fold(jnp.maximum, jnp.where(asks, rank, 0)) + 1
    level = _last(lambda x: total(jnp.where(rank < x, wanted, 0)) <= budget, jnp.zeros_like(budget), top + 1)
    early, tied = rank < level, asks & (rank == level)
    budget = budget - total(jnp.where(early, wanted, 0))
    top = fold(jnp.maximum, jnp.where(tied, priority, 0)) + 1
    turn = _last(
        lambda x: total(jnp.where(tied & (priority < x), wanted, 0)) <= budget, jnp.zeros_like(budget), top + 1
    )
    before = tied & (priority < turn)
    budget = once(budget - total(jnp.where(before, wanted, 0)))
    return jnp.where(early | before, wanted, jnp.where(tied & (priority == turn), budget, 0))


def _last(holds: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The last integer in `[low, high)` up to which `holds`; it holds at `low`. `[A]` int32, by bisection."""

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        held = holds(middle)
        return jnp.where(held, middle, low), jnp.where(held, high, middle)

    return jax.lax.while_loop(lambda bounds: (bounds[1] - bounds[0] > 1).any(), halve, (low, high))[0]


def _priced(lots: jax.Array, limit_ticks: jax.Array) -> jax.Array:
    """Limits in ticks, market orders at the last price of their side."""
    return jnp.where(limit_ticks == 0, jnp.where(lots > 0, MAX_TICKS, MIN_TICKS), limit_ticks)


def _rows(array: jax.Array) -> jax.Array:
    """`[N, A, K]` to `[R, A]`."""
    return jnp.swapaxes(array, 1, 2).reshape(-1, array.shape[1])


def _slots(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[R, A]` to `[N, A, K]`."""
    n, assets, k = shape
    return jnp.swapaxes(rows.reshape(n, k, assets), 1, 2)
