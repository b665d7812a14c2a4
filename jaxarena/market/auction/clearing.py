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
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS

#: Lots of one side of one auction stay below this, so that sums and remainders fit 32 bits.
MAX_SIDE_LOTS = 2**30

_NO_EDGE = MIN_TICKS - 2  # below the edge of every order
_NEVER = 2**31 - 1  # above every rank and priority


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
    price, volume, imbalance, filled = match(admitted, limit_ticks, reference_ticks, once(as_rows(priority)), entered)
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


def match(
    lots: jax.Array, limit_ticks: jax.Array, reference: jax.Array, priority: jax.Array, entered: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Rules 3 and 4 of `clear`: price, volume and imbalance, `[A]` each, and signed fills, `[N, A, K]`.

    priority: `[R, A]`, unlike the others.
    """
    book = once(Book.of(lots, limit_ticks))
    crossing = once(_crossing(book, reference))
    filled = _fills(book, crossing, priority, None if entered is None else as_rows(entered))
    return crossing.price, crossing.volume, crossing.imbalance, once(_slots(filled, lots.shape))


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


class _Crossing(Record):
    """Where demand and supply meet, `[A]` each."""

    price: jax.Array  # int32 ticks
    volume: jax.Array  # int32 lots
    imbalance: jax.Array  # int32 lots
    last: jax.Array  # int32 ticks, the last price at which demand is not below supply
    buys_ration: jax.Array  # bool, the longer side
    rest: jax.Array  # int32 lots for the orders at the margin
    wanted: jax.Array  # int32 lots of the orders at the margin


class Book(Record):
    """The orders of one auction as rows, a slot each; `R = N * K`.

    One lot more at a price above `edge` is one lot less of excess demand, whichever the side: a buy leaves above its
    limit, and a sell comes at its limit, which is the price after its edge. So excess demand at `p` is the size of
    the orders whose edge is at or above `p`, less the size of all sells.
    """

    size: jax.Array  # [R, A] int32 lots
    edge: jax.Array  # [R, A] int32 ticks, below all prices where there is no order
    buys: jax.Array  # [R, A] bool

    @classmethod
    def of(cls, lots: jax.Array, limit_ticks: jax.Array) -> "Book":
        """From `[N, A, K]`."""
        lots, price = as_rows(lots), as_rows(limit_ticks)
        buys = lots > 0
        edge = jnp.where(buys, jnp.where(price == 0, MAX_TICKS, price), jnp.where(price == 0, MIN_TICKS, price) - 1)
        return cls(size=jnp.abs(lots), edge=jnp.where(lots == 0, _NO_EDGE, edge), buys=buys)


def _crossing(book: Book, reference: jax.Array) -> _Crossing:
    """Rule 3 of `clear`.

    Excess demand falls with the price. Below `last`, the last price at which it is not negative, supply limits the
    volume; above it demand does. So the best volume is found at `last` or at the price after it, and the prices that
    are as good as either form an interval that ends there.
    """
    rows = book.size, book.edge, book.buys
    supply = map_reduce(jnp.add, lambda size, edge, buys: jnp.where(buys, 0, size), *rows)
    best_bid = map_reduce(jnp.maximum, lambda edge, buys: jnp.where(buys, edge, MIN_TICKS - 1), *rows[1:])
    best_ask = 1 + map_reduce(
        jnp.minimum, lambda edge, buys: jnp.where(buys | (edge == _NO_EDGE), MAX_TICKS, edge), *rows[1:]
    )

    def above(price: jax.Array) -> jax.Array:
        """Size of the orders whose edge is at or above a price."""
        return map_reduce(jnp.add, lambda size, edge: jnp.where(edge >= price, size, 0), *rows[:2])

    def demand(price: jax.Array) -> jax.Array:
        """Lots that buyers want at a price."""
        return map_reduce(jnp.add, lambda size, edge, buys: jnp.where(buys & (edge >= price), size, 0), *rows)

    crossed = best_bid >= best_ask
    low = jnp.where(crossed, best_ask - 1, reference)
    last = once(_last(lambda p: above(p) >= supply, low, jnp.where(crossed, best_bid + 1, low + 1)))
    after = last + 1
    excess, excess_after = above(last) - supply, above(after) - supply
    wanted, wanted_after = demand(last), demand(after)
    offered, offered_after = wanted - excess, wanted_after - excess_after
    volume = jnp.where(crossed, jnp.maximum(offered, wanted_after), 0)
    surplus, shortage = wanted - volume, offered_after - volume  # imbalance at `last` and at the price after it
    at_last, at_after = offered == volume, wanted_after == volume
    take_last = at_last & (~at_after | (surplus <= shortage))
    take_after = at_after & (~at_last | (shortage <= surplus))
    edge_before = map_reduce(jnp.maximum, lambda edge: jnp.where(edge < last, edge, _NO_EDGE), book.edge)
    edge_after = map_reduce(jnp.minimum, lambda edge: jnp.where(edge > last, edge, MAX_TICKS), book.edge)
    first = jnp.where(take_last, jnp.maximum(edge_before + 1, MIN_TICKS), after)
    final = jnp.where(take_after, edge_after, last)
    price = jnp.where(volume > 0, jnp.clip(reference, first, final), reference)
    return _Crossing(
        price=price,
        volume=volume,
        imbalance=jnp.where(price <= last, excess, excess_after),
        last=last,
        buys_ration=take_last & (price <= last),
        rest=volume - jnp.where(take_last & (price <= last), wanted_after, offered),
        wanted=jnp.where(take_last & (price <= last), wanted - wanted_after, offered_after - offered),
    )


def _fills(book: Book, crossing: _Crossing, priority: jax.Array, entered: jax.Array | None) -> jax.Array:
    """Rule 4 of `clear`: signed lots of all rows, `[R, A]`."""
    last, traded = crossing.last, crossing.volume > 0
    full = traded & jnp.where(book.buys, book.edge > last, book.edge < last)
    marginal = traded & (book.edge == last) & (book.buys == crossing.buys_ration)
    wanted = jnp.where(marginal, book.size, 0)
    if entered is not None:
        wanted = once(wanted)
        rank = jnp.where(marginal, entered - fold(jnp.minimum, entered), _NEVER)
        served = _serve(crossing.rest, wanted, rank, priority)
    else:
        share, remainder = _proportion(wanted, crossing.rest, jnp.maximum(crossing.wanted, 1))
        rank = jnp.where(remainder > 0, crossing.wanted - remainder, _NEVER)
        rank = once(rank)
        left = once(crossing.rest - total(share))
        served = share + _serve(left, None, rank, priority)
    filled = jnp.where(full, book.size, served)
    return jnp.where(book.buys, filled, -filled)


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
        budget: `[A]` int32.
        wanted: `[R, A]` int32, or None where every row wants one.
        rank: `[R, A]` int32, not negative; `_NEVER` for rows that want nothing.
        priority: `[R, A]` int32, not negative, all different.
    """

    def before(rank: jax.Array, turn: jax.Array) -> jax.Array:
        """What the rows before a turn want, `[A]`."""
        if wanted is None:
            return map_reduce(jnp.add, lambda rank: (rank < turn).astype(jnp.int32), rank)
        return map_reduce(jnp.add, lambda rank, wanted: jnp.where(rank < turn, wanted, 0), rank, wanted)

    def last_turn(rank: jax.Array) -> jax.Array:
        top = map_reduce(jnp.maximum, lambda rank: jnp.where(rank == _NEVER, 0, rank), rank)
        return once(_last(lambda turn: before(rank, turn) <= budget, jnp.zeros_like(budget), top + 2))

    level = last_turn(rank)
    rank = once(jnp.where(rank < level, -1, jnp.where(rank == level, priority, _NEVER)))
    turn = last_turn(rank)
    if wanted is None:
        return (rank < turn).astype(jnp.int32)
    return jnp.where(rank < turn, wanted, jnp.where(rank == turn, once(budget - before(rank, turn)), 0))


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


def as_rows(array: jax.Array) -> jax.Array:
    """`[N, A, K]` to `[R, A]`."""
    return jnp.swapaxes(array, 1, 2).reshape(-1, array.shape[1])


def _slots(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[R, A]` to `[N, A, K]`."""
    n, assets, k = shape
    return jnp.swapaxes(rows.reshape(n, k, assets), 1, 2)
