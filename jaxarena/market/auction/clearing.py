"""The rule of a call auction, on arrays of orders of one market: which price, and who fills at it.

Nothing here sorts, and no grid of prices bounds anything: demand and supply are step functions of the price, and
bisection on them is exact at every price there is. Belongs here: the rule. Does not belong here: what an auction
remembers and shows between steps (`mechanism`).
Sources: Budish, Cramton and Shim (2015) for frequent batch auctions; the order of the rules for the price (volume,
imbalance, reference) is the one of exchanges' opening auctions.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_shape
from jaxarena.core.draws import bits
from jaxarena.core.once import once
from jaxarena.core.reduce import fold, map_reduce, total
from jaxarena.core.tree import Record
from jaxarena.core.types import Orders, join_rows
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS

#: Lots of one side of one auction stay below this, so that sums and remainders fit 32 bits.
MAX_SIDE_LOTS = 2**30

NO_EDGE = MIN_TICKS - 2  # below the edge of every order
NEVER = 2**31 - 1  # above every rank and priority


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
    orders = Orders(lots=jnp.where(refused, 0, lots), limit_ticks=limit_ticks)
    book, self_matched = Book.of(orders)
    if entered is not None:
        entered = orders.to_rows(entered)
    crossing, filled = match(book, reference_ticks, orders.to_rows(priority), entered)
    return Cleared(
        price_ticks=crossing.price,
        volume_lots=crossing.volume,
        imbalance_lots=crossing.imbalance,
        filled=orders.from_rows(book.signed(filled)),
        refused=refused,
        self_matched=orders.from_rows(self_matched),
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


class Book(Record):
    """The orders of one auction as rows, one for each slot in use.

    One tick more, from `edge` to the price after it, is `size` lots less of excess demand, whatever the side: there a
    buy leaves, whose limit is the edge, and a sell comes, whose limit is the price after it. So the excess demand at
    a price is the size of all orders whose edge is not below it, less the size of all sells.
    """

    size: jax.Array  # [R, A] int32 lots, 0 where there is no order
    edge: jax.Array  # [R, A] int32 ticks, `NO_EDGE` where there is no order
    buys: jax.Array  # [R, A] bool

    @classmethod
    def of(cls, orders: Orders) -> "tuple[Book, jax.Array]":
        """The book without the orders that cross another one of the same agent (rule 2 of `clear`).

        Returns:
            The book, and which orders were cancelled, `[R, A]` bool.
        """
        groups = [
            _group(*part) for part in zip(orders.split(orders.lots), orders.split(orders.limit_ticks), strict=True)
        ]
        size, edge, buys, crossed = (join_rows(blocks) for blocks in zip(*groups, strict=True))
        return once((cls(size=size, edge=edge, buys=buys), crossed))

    def signed(self, lots: jax.Array) -> jax.Array:
        """Lots of each row, positive for buys, `[R, A]`."""
        return jnp.where(self.buys, lots, -lots)

    def total(self, lots: "Callable[[Book], jax.Array]") -> jax.Array:
        """Sum of lots of all rows, `[A]`."""
        return map_reduce(jnp.add, lots, self)

    def highest(self, chosen: "Callable[[Book], jax.Array]") -> jax.Array:
        """Highest edge of the rows that are chosen; `NO_EDGE` if there is none. `[A]`."""
        return map_reduce(jnp.maximum, lambda rows: jnp.where(chosen(rows), rows.edge, NO_EDGE), self)

    def lowest(self, chosen: "Callable[[Book], jax.Array]") -> jax.Array:
        """Lowest edge of the rows that are chosen; `MAX_TICKS`, where no buy leaves, if there is none. `[A]`."""
        return map_reduce(jnp.minimum, lambda rows: jnp.where(chosen(rows), rows.edge, MAX_TICKS), self)

    def best_bid(self) -> jax.Array:
        """Highest limit of the buys, `[A]`; below all prices if there is none."""
        return self.highest(lambda rows: rows.buys & (rows.size > 0))

    def best_ask(self) -> jax.Array:
        """Lowest limit of the sells, `[A]`; above all prices if there is none."""
        return self.lowest(lambda rows: ~rows.buys & (rows.size > 0)) + 1


def _group(lots: jax.Array, limit: jax.Array) -> tuple[jax.Array, ...]:
    """Size, edge, side and self-matches of agents with as many slots, `[agents, slots, A]` each."""
    buys = lots > 0
    limit = jnp.where(limit == 0, jnp.where(buys, MAX_TICKS, MIN_TICKS), limit)
    edge = jnp.where(buys, limit, jnp.where(lots < 0, limit - 1, NO_EDGE))
    crossed = jnp.zeros(lots.shape, bool)
    if lots.shape[1] > 1:
        lowest_sell = fold(jnp.minimum, jnp.where(lots < 0, edge, MAX_TICKS), 1)[:, None]
        highest_buy = fold(jnp.maximum, jnp.where(buys, edge, NO_EDGE), 1)[:, None]
        crossed = jnp.where(buys, edge > lowest_sell, (lots < 0) & (edge < highest_buy))
    return jnp.where(crossed, 0, jnp.abs(lots)), jnp.where(crossed, NO_EDGE, edge), buys, crossed


class Crossing(Record):
    """Where demand and supply meet, `[A]` each."""

    price: jax.Array  # int32 ticks
    volume: jax.Array  # int32 lots
    imbalance: jax.Array  # int32 lots
    last: jax.Array  # int32 ticks, the last price at which demand is not below supply
    buys_ration: jax.Array  # bool, the longer side, whose orders with their edge at `last` are rationed
    rest: jax.Array  # int32 lots, what those orders get
    wanted: jax.Array  # int32 lots, what they want


def match(
    book: Book, reference: jax.Array, priority: jax.Array, entered: jax.Array | None
) -> tuple[Crossing, jax.Array]:
    """Rules 3 and 4 of `clear`: the price, and the lots of each row that fill, `[R, A]`.

    priority, entered: as for `clear`, but of rows.
    """
    crossing = once(_crossing(book, reference))
    return crossing, once(_fills(book, crossing, priority, entered))


def shuffled(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Different numbers in random order, all below the next power of two of the size. key: consumed.

    Two rounds of an odd multiplication, an addition and a shift, modulo a power of two: each is a bijection. Not
    uniform over all orders, which would need a sort; every entry is equally likely to stand before any other.
    """
    size = math.prod(shape)
    width = max((size - 1).bit_length(), 1)
    words = once(bits(key, (4,)))
    x = jnp.arange(size, dtype=jnp.uint32)
    for i in range(2):
        x = (x * (words[2 * i] | jnp.uint32(1)) + words[2 * i + 1]) & jnp.uint32(2**width - 1)
        x = x ^ (x >> jnp.uint32((width + 1) // 2))
    return x.astype(jnp.int32).reshape(shape)


def _crossing(book: Book, reference: jax.Array) -> Crossing:
    """Rule 3 of `clear`.

    Excess demand falls with the price. Below `last`, the last price at which it is not negative, supply limits the
    volume; above it demand does. So the best volume is found at `last` or at the price after it, and the prices that
    are as good as either form an interval that ends there.
    """

    def above(price: jax.Array) -> jax.Array:
        """Lots of orders whose edge is not below a price."""
        return book.total(lambda rows: jnp.where(rows.edge >= price, rows.size, 0))

    def demand(price: jax.Array) -> jax.Array:
        """Lots that buyers want at a price."""
        return book.total(lambda rows: jnp.where(rows.buys & (rows.edge >= price), rows.size, 0))

    sells = book.total(lambda rows: jnp.where(rows.buys, 0, rows.size))
    best_ask, best_bid = book.best_ask(), book.best_bid()
    crossed = best_bid >= best_ask
    low = jnp.where(crossed, best_ask - 1, reference)
    last = once(_last(lambda p: above(p) >= sells, low, jnp.where(crossed, best_bid + 1, low + 1)))
    after = last + 1
    excess, excess_after = above(last) - sells, above(after) - sells
    wanted, wanted_after = demand(last), demand(after)
    offered, offered_after = wanted - excess, wanted_after - excess_after
    volume = jnp.where(crossed, jnp.maximum(offered, wanted_after), 0)
    surplus, shortage = wanted - volume, offered_after - volume  # imbalance at `last` and at the price after it
    at_last, at_after = offered == volume, wanted_after == volume
    take_last = at_last & (~at_after | (surplus <= shortage))
    take_after = at_after & (~at_last | (shortage <= surplus))
    lowest = jnp.maximum(book.highest(lambda rows: rows.edge < last) + 1, MIN_TICKS)
    highest = book.lowest(lambda rows: rows.edge > last)
    first, final = jnp.where(take_last, lowest, after), jnp.where(take_after, highest, last)
    price = jnp.where(volume > 0, jnp.clip(reference, first, final), reference)
    below = price <= last
    buys_ration = take_last & below
    return Crossing(
        price=price,
        volume=volume,
        imbalance=jnp.where(below, excess, excess_after),
        last=last,
        buys_ration=buys_ration,
        rest=volume - jnp.where(buys_ration, wanted_after, offered),
        wanted=jnp.where(buys_ration, wanted - wanted_after, offered_after - offered),
    )


def _fills(book: Book, crossing: Crossing, priority: jax.Array, entered: jax.Array | None) -> jax.Array:
    """Rule 4 of `clear`: lots of all rows, `[R, A]`."""
    last, traded = crossing.last, crossing.volume > 0
    marginal = traded & (book.edge == last) & (book.buys == crossing.buys_ration)
    wanted = jnp.where(marginal, book.size, 0)
    if entered is not None:
        rank = jnp.where(marginal, entered - fold(jnp.minimum, entered), NEVER)
        served = _serve(crossing.rest, once(wanted), once(rank), priority)
    else:
        share, remainder = _proportion(wanted, crossing.rest, jnp.maximum(crossing.wanted, 1))
        rank = jnp.where(remainder > 0, crossing.wanted - remainder, NEVER)
        served = share + _serve(once(crossing.rest - total(share)), None, once(rank), priority)
    full = traded & jnp.where(book.buys, book.edge > last, book.edge < last)
    return jnp.where(full, book.size, served)


def _proportion(part: jax.Array, rest: jax.Array, whole: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`part * rest // whole` and `part * rest % whole` for `0 <= part, rest <= whole < 2**30`, exactly.

    Multiplied by the reciprocal in fixed point, which is at most one too small; the remainder, which holds twice the
    divisor in 32 bits, tells.
    """
    with jax.enable_x64(True):
        ratio = (rest.astype(jnp.uint64) << jnp.uint64(31)) // whole.astype(jnp.uint64)
        ratio = once(ratio.astype(jnp.uint32))  # or the compiler divides again for every row
        quotient = ((part.astype(jnp.uint64) * ratio.astype(jnp.uint64)) >> jnp.uint64(31)).astype(jnp.int32)
    quotient += part * rest - quotient * whole >= whole
    quotient = once(quotient)
    return quotient, part * rest - quotient * whole


def _serve(budget: jax.Array, wanted: jax.Array | None, rank: jax.Array, priority: jax.Array) -> jax.Array:
    """Give each row what it wants, lower rank first, then lower priority, until the budget is used up.

    Args:
        budget: `[A]` int32, not more than the rows want together.
        wanted: `[R, A]` int32, or None where every row wants one, and more rows want it than the budget allows.
        rank: `[R, A]` int32, not negative; `NEVER` for rows that want nothing.
        priority: `[R, A]` int32, not negative, all different.
    """

    def before(rank: jax.Array, turn: jax.Array) -> jax.Array:
        """What the rows before a turn want, `[A]`."""
        if wanted is None:
            return map_reduce(jnp.add, lambda rank: (rank < turn).astype(jnp.int32), rank)
        return map_reduce(jnp.add, lambda rows: jnp.where(rows[0] < turn, rows[1], 0), (rank, wanted))

    def last_turn(rank: jax.Array) -> jax.Array:
        top = map_reduce(jnp.maximum, lambda rank: jnp.where(rank == NEVER, 0, rank), rank)
        return once(_last(lambda turn: before(rank, turn) <= budget, jnp.zeros_like(budget), top + 1))

    level = last_turn(rank)
    rank = once(jnp.where(rank < level, -1, jnp.where(rank == level, priority, NEVER)))
    turn = last_turn(rank)
    if wanted is None:
        return (rank < turn).astype(jnp.int32)
    return jnp.where(rank < turn, wanted, jnp.where(rank == turn, once(budget - before(rank, turn)), 0))


def _last(holds: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The last integer in `[low, high)` up to which `holds`; it holds at `low`. `[A]` int32, bit by bit."""

    def advance(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, step = carry
        further = low + step
        return jnp.where((further < high) & holds(further), further, low), step >> 1

    step = (1 << 31 - jax.lax.clz(high - low - 1)) * (high - low > 1)  # highest power of two below the width
    return jax.lax.while_loop(lambda carry: (carry[1] > 0).any(), advance, (low, step))[0]
