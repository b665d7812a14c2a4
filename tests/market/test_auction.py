"""`clear` of the call auction against its four rules, a slow oracle and the laws of a market."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from jaxarena.core.batching import vmap_last
from jaxarena.core.money import Money, int_quanta
from jaxarena.core.types import Orders
from jaxarena.market.auction import clear, largest_order
from jaxarena.market.auction.clearing import Book, _proportion, match, shuffled
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS
from tests.reference import auction as oracle

TICK_VALUES = (3, 7)  # quanta of a tick of each asset; 7 * 2**60 is close to the most that 64 bits hold
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
FIELDS = ("price_ticks", "volume_lots", "imbalance_lots", "filled", "refused", "self_matched")

single = jax.jit(clear)


def cleared_and_cash(lots, limits, reference, priority, entered=None):
    cleared = clear(lots, limits, reference, priority, entered)
    tick_values = jnp.asarray(TICK_VALUES[: lots.shape[1]], jnp.int32)[:, None]
    value = Money.of_lots(cleared.price_ticks[:, None], cleared.filled, tick_values)
    return cleared, -value.sum(2)


single_with_cash = jax.jit(cleared_and_cash)


@jax.jit
def many(*arrays):
    """All markets of a batch, which is the last axis of every array."""
    return vmap_last(cleared_and_cash, (True,) * len(arrays))(*arrays)


# --- The four rules, by hand: `agents` holds, for each agent, the (lots, limit) of its orders in one asset.

N, K = 6, 3
MOST = (2**30 - 1) // (N * K)


def table(agents, default=0):
    """`[N, 1, K]` from a short nested list."""
    rows = [list(agent) + [default] * (K - len(agent)) for agent in agents]
    return jnp.asarray(rows + [[default] * K] * (N - len(rows)), jnp.int32)[:, None]


def held(agents, reference=100, priority=None, entered=None):
    """Price, volume, imbalance and fills, and the whole result."""
    lots = table([[order[0] for order in agent] for agent in agents])
    limits = table([[order[1] for order in agent] for agent in agents])
    ranks = list(range(len(agents)) if priority is None else priority)
    ranks += range(10, 10 + N - len(ranks))
    order = jnp.asarray([[[K * rank + slot for slot in range(K)]] for rank in ranks], jnp.int32)
    when = None if entered is None else table([[time] for time in entered])
    cleared = single(lots, limits, jnp.asarray([reference], jnp.int32), order, when)
    fills = [cleared.filled[n, 0, : len(agent)].tolist() for n, agent in enumerate(agents)]
    assert not cleared.filled[len(agents) :].any()
    return (int(cleared.price_ticks[0]), int(cleared.volume_lots[0]), int(cleared.imbalance_lots[0]), fills), cleared


def marked(flags, agents):
    return [flags[n, 0, : len(agent)].tolist() for n, agent in enumerate(agents)]


def test_rule_1_what_is_refused():
    agents = [[(5, -1), (5, MAX_TICKS + 1), (1, MAX_TICKS)], [(MOST + 1, 100), (-MOST - 1, 100), (0, -7)]]
    agents += [[(-3, MIN_TICKS)], [(INT_MIN, 100), (INT_MAX, 100)], [(2, INT_MIN), (-2, INT_MAX)], [(2, 0)]]
    (price, volume, imbalance, fills), cleared = held(agents)
    assert (price, volume, imbalance) == (100, 3, 0)
    assert fills == [[0, 0, 1], [0, 0, 0], [-3], [0, 0], [0, 0], [2]]
    expected = [[True, True, False], [True, True, False], [False], [True, True], [True, True], [False]]
    assert marked(cleared.refused, agents) == expected
    assert not cleared.self_matched.any()  # what is refused crosses nothing


def test_rule_1_the_largest_order_is_admitted_on_both_sides():
    agents = [[(MOST, 100)] * K, [(MOST, 100)] * K, [(-MOST, 100)] * K, [(-MOST, 100), (-MOST + 1, 100)]]
    (price, volume, imbalance, fills), cleared = held(agents)
    assert not cleared.refused.any()
    assert (price, volume, imbalance) == (100, 5 * MOST - 1, MOST + 1)
    assert fills[2:] == [[-MOST] * K, [-MOST, -MOST + 1]]
    assert sum(sum(row) for row in fills) == 0
    assert most_of_a_side(N, K) < 2**30 <= most_of_a_side(N, K) + N * K
    assert largest_order(N, K) == MOST


def most_of_a_side(n_agents, n_slots):
    return n_agents * n_slots * largest_order(n_agents, n_slots)


@pytest.mark.parametrize(
    ("reference", "agents", "expected"),
    [  # a market order is a limit order at the last price of its side: level with those at that price, before others
        (100, [[(3, 0)], [(3, 200)], [(-4, MAX_TICKS)]], (MAX_TICKS, 3, -1, [[3], [0], [-3]])),
        (MAX_TICKS, [[(3, 0)], [(3, MAX_TICKS)], [(-4, 200)]], (MAX_TICKS, 4, 2, [[2], [2], [-4]])),
        (MAX_TICKS, [[(3, 0)], [(3, MAX_TICKS - 1)], [(-4, 200)]], (MAX_TICKS - 1, 4, 2, [[3], [1], [-4]])),
        (100, [[(-3, 0)], [(-3, 50)], [(4, MIN_TICKS)]], (MIN_TICKS, 3, 1, [[-3], [0], [3]])),
        (MIN_TICKS, [[(-3, 0)], [(-3, MIN_TICKS)], [(4, 50)]], (MIN_TICKS, 4, -2, [[-2], [-2], [4]])),
        (MIN_TICKS, [[(-3, 0)], [(-3, MIN_TICKS + 1)], [(4, 50)]], (MIN_TICKS + 1, 4, -2, [[-3], [-1], [4]])),
        (100, [[(5, 0)], [(-2, 0)]], (100, 2, 3, [[2], [-2]])),
        (100, [[(-5, 0)], [(2, 0)]], (100, 2, -3, [[-2], [2]])),
        (100, [[(5, 0)], [(2, 0)]], (100, 0, 7, [[0], [0]])),
    ],
)
def test_rule_1_market_orders(reference, agents, expected):
    assert held(agents, reference)[0] == expected


def test_rule_2_orders_of_one_agent_that_cross_each_other():
    agents = [[(5, 105), (-4, 100), (-3, 106)], [(2, 100), (-2, 100)], [(2, 100), (-2, 101)], [(7, 106)]]
    (_, volume, _, fills), cleared = held(agents)
    assert marked(cleared.self_matched, agents) == [[True, True, False], [True, True], [False, False], [False]]
    assert fills == [[0, 0, -3], [0, 0], [0, -2], [5]]
    assert volume == 5
    assert not cleared.refused.any()


def test_rule_2_cancels_an_order_that_crosses_one_that_is_cancelled():
    """The sell at 100 crosses both buys, the sell at 103 one of them: all four go, the buy at 99 stays."""
    agents = [[(1, 104), (1, 101), (-1, 100)], [(1, 104), (-1, 103), (1, 99)], [(1, 0), (-1, 500)], [(2, 50), (-1, 0)]]
    _, cleared = held(agents)
    assert marked(cleared.self_matched, agents) == [[True] * 3, [True, True, False], [True] * 2, [True] * 2]


def test_rule_2_looks_at_each_asset_by_itself():
    lots = jnp.asarray([[[3, 0], [0, -3]], [[-3, 0], [0, 3]]], jnp.int32)
    limits = jnp.full_like(lots, 100)
    cleared = single(lots, limits, jnp.asarray([100, 100]), jnp.arange(8, dtype=jnp.int32).reshape(2, 2, 2))
    np.testing.assert_array_equal(cleared.filled, lots)
    assert not cleared.self_matched.any()


@pytest.mark.parametrize(
    ("reference", "agents", "expected"),
    [
        # Most volume: 10 lots from 101 to 102, 4 below, and 0 outside.
        (50, [[(10, 102)], [(-4, 98)], [(-6, 101)]], (101, 10, 0)),
        (500, [[(10, 102)], [(-4, 98)], [(-6, 101)]], (102, 10, 0)),
        # Most volume goes before imbalance: 6 against 10 lots at 100 to 102, 5 against 5 above.
        (110, [[(1, 102)], [(5, 105)], [(-10, 100)]], (102, 6, -4)),
        # Then least imbalance: 10 lots trade from 98 to 102, demand is 15 up to 100 and 10 above.
        (90, [[(10, 102)], [(5, 100)], [(-10, 98)]], (101, 10, 0)),
        (110, [[(-10, 98)], [(-5, 100)], [(10, 102)]], (99, 10, 0)),
        (101, [[(10, 102)], [(5, 100)], [(-10, 98)]], (101, 10, 0)),
        # Equal imbalance, +2 up to 100 and -2 above: nearest to the reference.
        (97, [[(2, 105)], [(2, 100)], [(-2, 95)], [(-2, 101)]], (97, 2, 2)),
        (103, [[(2, 105)], [(2, 100)], [(-2, 95)], [(-2, 101)]], (103, 2, -2)),
        (110, [[(2, 105)], [(2, 100)], [(-2, 95)], [(-2, 101)]], (105, 2, -2)),
        (1, [[(2, 105)], [(2, 100)], [(-2, 95)], [(-2, 101)]], (95, 2, 2)),
        # +3 against -2, and +2 against -3.
        (97, [[(2, 105)], [(3, 100)], [(-2, 95)], [(-2, 101)]], (101, 2, -2)),
        (103, [[(2, 105)], [(2, 100)], [(-2, 95)], [(-3, 101)]], (100, 2, 2)),
        # Imbalance bounds the prices that are equally good: -3 lots from 104 on, +3 up to 96.
        (110, [[(2, 105)], [(3, 100)], [(-2, 95)], [(-2, 101)], [(-1, 104)]], (103, 2, -2)),
        (90, [[(-2, 95)], [(-3, 100)], [(2, 105)], [(2, 99)], [(1, 96)]], (97, 2, 2)),
        # Nothing can trade: the reference, and what is wanted there.
        (100, [[(5, 99)], [(-4, 101)]], (100, 0, 0)),
        (90, [[(5, 99)], [(-4, 101)]], (90, 0, 5)),
        (101, [[(5, 99)], [(-4, 101)]], (101, 0, -4)),
        (70, [[(5, 99)], [(3, 0)]], (70, 0, 8)),
        (100, [[(5, 99)], [(3, 0)]], (100, 0, 3)),
        (1, [[(-5, 99)], [(-3, 0)]], (1, 0, -3)),
        (77, [[]], (77, 0, 0)),
        # At the ends of the range.
        (1, [[(1, MAX_TICKS)], [(-1, MAX_TICKS)]], (MAX_TICKS, 1, 0)),
        (MAX_TICKS, [[(1, MIN_TICKS)], [(-1, MIN_TICKS)]], (MIN_TICKS, 1, 0)),
        (5, [[(1, MAX_TICKS)], [(-1, MIN_TICKS)]], (5, 1, 0)),
    ],
)
def test_rule_3_the_price(reference, agents, expected):
    assert held(agents, reference)[0][:3] == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_rule_4_better_prices_fill_first_on_the_longer_side_and_the_shorter_fills_whole(sign):
    agents = [[(3 * sign, 100 + 2 * sign)], [(4 * sign, 100 + sign)], [(9 * sign, 100)], [(-5 * sign, 100 - sign)]]
    (price, volume, imbalance, fills), _ = held(agents, 100 + sign)
    assert (price, volume, imbalance) == (100 + sign, 5, 2 * sign)
    assert fills == [[3 * sign], [2 * sign], [0], [-5 * sign]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("wanted", "rest", "priority", "expected"),
    [
        ([5, 3, 2], 6, None, [3, 2, 1]),  # 3, 1 and 1, remainders 0, 8 and 2 of 10
        ([2, 3, 5], 6, None, [1, 2, 3]),
        ([4, 2, 2], 4, None, [2, 1, 1]),  # nothing remains
        ([1, 1, 1], 2, [2, 0, 1], [0, 1, 1]),  # remainders are equal
        ([1, 1, 1], 1, [2, 1, 0], [0, 0, 1]),
        ([1, 1, 1], 1, [0, 1, 2], [1, 0, 0]),
        ([7, 7, 1], 8, [2, 1, 0], [4, 4, 0]),  # 3, 3 and 0, remainders 11, 11 and 8 of 15
        ([3, 3, 2], 7, [9, 3, 0], [2, 3, 2]),  # 2, 2 and 1, remainders 5, 5 and 6 of 8
        ([3, 3, 2], 7, [3, 9, 0], [3, 2, 2]),
        ([7, 7, 1], 7, [9, 3, 0], [3, 3, 1]),  # remainders 4, 4 and 7
        ([10, 1, 1], 1, [2, 1, 0], [1, 0, 0]),  # remainders 10, 1 and 1: the largest, whatever its priority
        ([6, 3, 3], 6, [2, 1, 0], [3, 1, 2]),  # remainders 0, 6 and 6 of 12: none for the exact share
    ],
)
def test_rule_4_pro_rata(sign, wanted, rest, priority, expected):
    agents = [[(sign * lots, 100)] for lots in wanted] + [[(-sign * rest, 100)]]
    (_, volume, _, fills), _ = held(agents, priority=priority)
    assert volume == rest
    assert fills == [[sign * lots] for lots in expected] + [[-sign * rest]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("wanted", "rest", "entered", "priority", "expected"),
    [
        ([5, 3, 2], 6, [0, 1, 2], None, [5, 1, 0]),
        ([5, 3, 2], 6, [2, 1, 0], None, [1, 3, 2]),
        ([5, 3, 2], 6, [2, 1, 0], [0, 1, 2], [1, 3, 2]),  # time goes before priority
        ([5, 3, 2], 6, [0, 1, 2], [2, 1, 0], [5, 1, 0]),
        ([5, 3, 2], 6, [7, 7, 7], [2, 1, 0], [1, 3, 2]),
        ([5, 3, 2], 6, [8, 7, 8], [2, 1, 0], [1, 3, 2]),
        ([5, 3, 2], 6, [8, 7, 8], [0, 1, 2], [3, 3, 0]),
        ([5, 3, 2], 5, [0, 1, 1], None, [5, 0, 0]),
        ([5, 3, 2], 8, [5, 5, 5], [1, 0, 2], [5, 3, 0]),
    ],
)
def test_rule_4_time_priority(sign, wanted, rest, entered, priority, expected):
    agents = [[(sign * lots, 100)] for lots in wanted] + [[(-sign * rest, 100)]]
    (_, volume, _, fills), _ = held(agents, priority=priority, entered=entered)
    assert volume == rest
    assert fills == [[sign * lots] for lots in expected] + [[-sign * rest]]


def test_rule_4_price_goes_before_time():
    agents = [[(4, 100)], [(4, 101)], [(-5, 100)]]
    assert held(agents, entered=[0, 9, 0])[0] == (100, 5, 3, [[1], [4], [-5]])


def test_arrays_that_do_not_fit_are_refused():
    lots, reference = jnp.zeros((2, 1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    for name, arrays in (
        ("limit_ticks", (lots, lots[0], reference, lots)),
        ("priority", (lots, lots, reference, lots[0])),
        ("reference_ticks", (lots, lots, reference[0], lots)),
    ):
        with pytest.raises(ValueError, match=name):
            clear(*arrays)


# --- Parity with the oracle.

EACH = 6_400  # markets of each shape and rationing, 102,400 in all
SHAPES = [(1, 1, 3), (2, 1, 1), (2, 2, 2), (3, 1, 2), (5, 2, 1), (6, 1, 1), (8, 1, 3), (12, 2, 3)]


def random_markets(rng, n, assets, k, size, central=False):
    """Lots, limits, references, priorities and times of `size` markets, each of its own kind.

    Central markets have no market orders, nothing that is refused, and prices around 2**29.
    """
    shape, most = (n, assets, k, size), (2**30 - 1) // (n * k)

    def kind(*choices):
        return rng.choice(np.asarray(choices), size)

    def chance(*choices):
        return rng.random(shape) < kind(*choices)

    centre, width = kind(2**29) if central else kind(1, 50, 50, 2**29, 2**30), kind(0, 1, 2, 4, 12, 2**30)
    limits = np.clip(centre + np.floor(rng.random(shape) * (2 * width + 1)).astype(int) - width, 1, 2**30)
    sizes = 1 + np.floor(rng.random(shape) * kind(1, 3, 20, 1000, most)).astype(int)
    sizes = np.where(chance(0, 0, 0, 0, 1), most, sizes)
    slot_sides, agent_sides = rng.random(shape), rng.random((n, assets, 1, size))
    sides = np.where(kind(0, 1) == 1, slot_sides, agent_sides) < kind(0, 0.3, 0.5, 0.5, 0.5, 0.5, 0.7, 1)
    lots = np.where(sides, sizes, -sizes) * ~chance(0, 0, 0, 0.3, 0.7, 1)
    reference = np.where(rng.random((assets, size)) < 0.7, centre + rng.integers(-3, 4, (assets, size)), 2**30)
    reference = np.where(rng.random((assets, size)) < 0.2, rng.integers(1, 2**30, (assets, size)), reference)
    if not central:
        limits = np.where(chance(0, 0, 0, 0.2, 1), 0, limits)
        limits = np.where(chance(0, 0, 0, 0, 0.2), rng.choice([-1, 2**30 + 1, INT_MIN, INT_MAX], shape), limits)
        huge = rng.choice([most + 1, -most - 1, INT_MIN, INT_MAX], shape)
        lots = np.where(chance(0, 0, 0, 0, 0.2), huge, lots)
    ranks = rng.random((n * k, assets, size)).argsort(0) * kind(1, 1, 1000) + kind(0, 2**29)
    priority = ranks.reshape(n, k, assets, size).swapaxes(1, 2)
    entered = np.floor(rng.random(shape) * kind(1, 2, 4, 2**30)).astype(int)
    arrays = (lots, limits, np.clip(reference, 1, 2**30), priority, entered)
    return [array.astype(np.int32) for array in arrays]


def as_lists(batched):
    """Nested lists, the market first."""
    return np.moveaxis(np.asarray(batched), -1, 0).tolist()


def assert_parity(arrays):
    """`clear` and the oracle on the same markets; returns the results of the oracle."""
    cleared, cash = many(*arrays)
    got = zip(*(as_lists(getattr(cleared, name)) for name in FIELDS), as_lists(int_quanta(cash)), strict=True)
    results = []
    for market, (price, volume, imbalance, filled, refused, crossed, paid) in zip(
        zip(*map(as_lists, arrays), strict=True), got, strict=True
    ):
        for a, expected in enumerate(oracle.auctions(*market, tick_values=TICK_VALUES)):
            per_asset = [[row[a] for row in nested] for nested in (filled, refused, crossed, paid)]
            assert oracle.Auction(price[a], volume[a], imbalance[a], *per_asset) == expected, (market, a)
            results.append(expected)
    return results


@pytest.mark.parametrize("by_time", [False, True], ids=["pro_rata", "time"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_auctions_equal_the_oracle_bit_for_bit(shape, by_time):
    rng = np.random.default_rng([*shape, by_time])
    arrays = random_markets(rng, *shape, EACH)[: 5 if by_time else 4]
    results = assert_parity(arrays)
    assert len(results) == EACH * shape[1]
    seen = {
        "traded": sum(result.volume > 0 for result in results),
        "nothing traded": sum(result.volume == 0 for result in results),
        "refused": sum(any(map(any, result.refused)) for result in results),
        "short": sum(result.imbalance < 0 < result.volume for result in results),
        "long": sum(result.imbalance > 0 and result.volume > 0 for result in results),
        "crossed": sum(any(map(any, result.self_matched)) for result in results),
    }
    can = ["nothing traded", "refused", *["traded", "short", "long"] * (shape[0] > 1), *["crossed"] * (shape[2] > 1)]
    assert {name: seen[name] for name in can if seen[name] < EACH // 50} == {}


orders = strategies.lists(
    strategies.tuples(strategies.integers(-4, 4), strategies.sampled_from([0, 1, 2, 3, 4, 5, 2**30, 2**30 + 1])),
    min_size=8,
    max_size=8,
)


@hypothesis.given(
    orders, strategies.integers(1, 7), strategies.permutations(range(8)), strategies.lists(strategies.integers(0, 2))
)
@hypothesis.settings(max_examples=300)
def test_small_auctions_equal_the_oracle(orders, reference, priority, entered):
    lots, limits = np.asarray(orders, np.int32).T.reshape(2, 4, 1, 2)
    times = np.resize(np.asarray(entered or [0], np.int32), (4, 1, 2))
    market = [lots, limits, np.asarray([reference], np.int32), np.asarray(priority, np.int32).reshape(4, 1, 2)]
    for arrays in (market, [*market, times]):
        expected = oracle.auctions(*(array.tolist() for array in arrays), tick_values=TICK_VALUES)[0]
        cleared, cash = single_with_cash(*arrays)
        got = [int(getattr(cleared, name)[0]) for name in FIELDS[:3]]
        got += [np.asarray(getattr(cleared, name))[:, 0].tolist() for name in FIELDS[3:]]
        assert oracle.Auction(*got, [paid for (paid,) in int_quanta(cash)]) == expected


# --- Laws, on many markets at once.

LAW_SHAPE, LAW_SIZE = (7, 2, 2), 4_000


@functools.cache
def law_markets(central=False):
    return random_markets(np.random.default_rng(11 + central), *LAW_SHAPE, LAW_SIZE, central)


def priced(lots, limits):
    return np.where(limits == 0, np.where(lots > 0, 2**30, 1), limits)


@pytest.mark.parametrize("inputs", [4, 5], ids=["pro_rata", "time"])
def test_laws_of_every_auction(inputs):
    arrays = law_markets()[:inputs]
    lots, limits = arrays[0].astype(np.int64), arrays[1]
    cleared, _ = jax.tree.map(np.asarray, many(*arrays))
    filled, price = cleared.filled.astype(np.int64), cleared.price_ticks[:, None]
    out = cleared.refused | cleared.self_matched
    assert (np.maximum(filled, 0).sum((0, 2)) == cleared.volume_lots).all(), "bought"
    assert (np.maximum(-filled, 0).sum((0, 2)) == cleared.volume_lots).all(), "sold"
    assert ((filled * np.sign(lots) >= 0) & (np.abs(filled) <= np.abs(lots))).all(), "beyond the size"
    assert not filled[out].any()
    value = priced(lots, limits)
    assert (value >= price)[filled > 0].all(), "a buyer pays more than its limit"
    assert (value <= price)[filled < 0].all(), "a seller gets less than its limit"
    for side in (1, -1):  # the worst price that fills at all, against the best one that does not fill whole
        mine, appeal = (np.sign(lots) == side) & ~out, side * value.astype(np.int64)
        worst = np.where(mine & (filled != 0), appeal, 2**40).min((0, 2))
        best = np.where(mine & (filled != lots), appeal, -(2**40)).max((0, 2))
        assert (best <= worst).all(), "a worse price fills before a better one"
        assert ((best == worst) & (cleared.volume_lots > 0)).any(), "nothing was rationed"


@pytest.mark.parametrize("inputs", [4, 5], ids=["pro_rata", "time"])
def test_fills_go_with_the_agent_and_not_with_its_place(inputs):
    arrays = law_markets()[:inputs]
    order = np.random.default_rng(3).permutation(LAW_SHAPE[0])
    moved = [array if i == 2 else array[order] for i, array in enumerate(arrays)]
    (before, paid), (after, paid_after) = many(*arrays), many(*moved)
    assert (np.asarray(before.filled) != np.asarray(after.filled)).any()
    for name in FIELDS:
        was = np.asarray(getattr(before, name))
        np.testing.assert_array_equal(getattr(after, name), was[order] if was.ndim > 2 else was, err_msg=name)
    assert np.asarray(int_quanta(paid))[order].tolist() == int_quanta(paid_after)


@pytest.mark.parametrize("inputs", [4, 5], ids=["pro_rata", "time"])
@pytest.mark.parametrize("shift", [1, -1, 12_345, 2**28, 1 - 2**28])
def test_a_shift_of_all_prices_shifts_the_price_and_nothing_else(inputs, shift):
    arrays = [array.copy() for array in law_markets(central=True)[:inputs]]
    for i in (1, 2):
        arrays[i] = np.clip(arrays[i], 2**28, 3 * 2**28)
    moved = [array + shift if i in (1, 2) else array for i, array in enumerate(arrays)]
    (before, _), (after, _) = many(*arrays), many(*moved)
    assert (np.asarray(before.volume_lots) > 0).mean() > 0.2
    np.testing.assert_array_equal(after.price_ticks, np.asarray(before.price_ticks) + shift)
    for name in FIELDS[1:]:
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


@pytest.mark.parametrize("inputs", [4, 5], ids=["pro_rata", "time"])
def test_a_batch_equals_its_markets_one_by_one(inputs):
    arrays = [array[..., :60] for array in law_markets()[:inputs]]
    together, _ = many(*arrays)
    mapped = jax.jit(jax.vmap(clear, in_axes=-1, out_axes=-1))(*arrays)
    one_by_one = [single(*(array[..., e] for array in arrays)) for e in range(60)]
    for name in FIELDS:
        expected = np.asarray(getattr(together, name))
        np.testing.assert_array_equal(getattr(mapped, name), expected, err_msg=name)
        alone = np.stack([np.asarray(getattr(one, name)) for one in one_by_one], -1)
        np.testing.assert_array_equal(alone, expected, err_msg=name)


def looped(start, limit, shared):
    """Loops whose trip counts, constants and first values have the batch axis or do not."""

    def advance(carry):  # of the first values, only the second has the batch axis
        step, value, trail = carry
        return step + 1, value * 3 + shared.sum() + step, trail + shared * value

    def unfinished(carry):
        return (carry[0] < limit) & (carry[1] < 10**6 * shared[1])

    own = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), start, jnp.zeros(2, jnp.int32)))
    same_count = jax.lax.while_loop(lambda c: c[0] < shared[0], lambda c: (c[0] + 1, c[1] * 2 + limit), (0, start))
    by_constant = jax.lax.while_loop(lambda c: c < limit, lambda c: c + shared[0], jnp.int32(0))
    return own, same_count, by_constant


def test_vmap_last_loops_until_each_entry_is_done():
    start, shared = jnp.asarray([1, 5, -2, 7, 10**6, 0], jnp.int32), jnp.asarray([3, 2], jnp.int32)
    limit = jnp.asarray([4, 0, 7, 1, 9, 30], jnp.int32)
    got = jax.jit(vmap_last(looped, (True, True, False)))(start, limit, shared)
    mapped = jax.jit(jax.vmap(looped, in_axes=(-1, -1, None), out_axes=-1))(start, limit, shared)
    alone = [jax.jit(looped)(one, most, shared) for one, most in zip(start, limit, strict=True)]
    assert got[0][0].tolist()[:5] == [4, 0, 7, 1, 1]  # trips of each entry; the fifth ends by its value
    jax.tree.map(np.testing.assert_array_equal, got, mapped)
    jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(lambda *leaves: np.stack(leaves, -1), *alone))


def test_proportions_are_exact_where_float64_rounds_to_the_wrong_side():
    rng = np.random.default_rng(4)
    cases = [(49, 1, 49), (0, 0, 1), (1, 0, 1), (2**30 - 1,) * 3]
    for whole in rng.integers(2**29, 2**30, 2_000).tolist():
        part = int(rng.integers(whole // 2, whole))
        if math.gcd(part, whole) == 1:
            inverse = pow(part, -1, whole)  # the remainder of the product is 1, or one less than `whole`
            cases += [(part, inverse, whole), (part, whole - inverse, whole)]
        cases += [(whole, part, whole), (part, whole, whole)]
    share, remainder = jax.jit(_proportion)(*np.asarray(cases, np.int32).T)
    assert share.tolist() == [part * rest // whole for part, rest, whole in cases]
    assert remainder.tolist() == [part * rest % whole for part, rest, whole in cases]


# --- Agents with fewer slots than others.

GROUPS = ((3, 1), (2, 3), (4, 2), (1, 1), (1, 1))  # agents, slots of each


def ragged(rng, assets=2):
    """Orders of groups of agents, padded to a table and as they are."""
    parts = []
    for agents, slots in GROUPS:
        shape = (agents, assets, slots)
        lots, limits = rng.integers(-9, 10, shape), rng.integers(95, 106, shape)
        parts.append(Orders(jnp.asarray(lots, jnp.int32), jnp.asarray(limits, jnp.int32)))
    return Orders.join(parts)


def test_joined_orders_remember_which_slots_are_used():
    orders = ragged(np.random.default_rng(0))
    assert orders.lots.shape == orders.limit_ticks.shape == (11, 2, 3)
    assert orders.groups == ((3, 1), (2, 3), (4, 2), (2, 1))
    used = np.repeat([1, 3, 2, 1], [3, 2, 4, 2])
    rows = orders.to_rows(orders.lots)
    np.testing.assert_array_equal(
        rows, [orders.lots[agent, :, slot] for agent in range(11) for slot in range(used[agent])]
    )
    np.testing.assert_array_equal(orders.from_rows(rows), orders.lots)
    np.testing.assert_array_equal(orders.by_agent(rows), orders.lots.sum(2))
    for block, (agents, slots) in zip(orders.split(orders.lots), orders.groups, strict=True):
        assert block.shape == (agents, slots, 2)


def test_overruled_agents_send_one_market_order_and_nothing_else():
    orders = ragged(np.random.default_rng(1))
    chosen, instead = jnp.arange(11) % 3 == 0, jnp.arange(22).reshape(11, 2)
    after = orders.overrule(chosen, instead)
    assert after.groups == orders.groups
    for agent in range(11):
        if chosen[agent]:
            np.testing.assert_array_equal(after.lots[agent], [[lots, 0, 0] for lots in instead[agent]])
            assert not after.limit_ticks[agent].any()
        else:
            np.testing.assert_array_equal(after.lots[agent], orders.lots[agent])
            np.testing.assert_array_equal(after.limit_ticks[agent], orders.limit_ticks[agent])


@pytest.mark.parametrize("timed", [False, True])
def test_slots_that_nobody_uses_change_nothing(timed):
    traded = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        orders, reference = ragged(rng), jnp.asarray([100, 103], jnp.int32)
        ranks = rng.permutation(orders.lots.size).reshape(orders.lots.shape).astype(np.int32)
        entered = rng.integers(0, 4, orders.lots.shape).astype(np.int32) if timed else None
        whole = single(orders.lots, orders.limit_ticks, reference, ranks, entered)
        book, crossed = Book.of(orders)
        rows = None if entered is None else orders.to_rows(entered)
        crossing, lots = match(book, reference, orders.to_rows(ranks), rows)
        np.testing.assert_array_equal(orders.from_rows(book.signed(lots)), whole.filled)
        np.testing.assert_array_equal(orders.from_rows(crossed), whole.self_matched)
        np.testing.assert_array_equal(crossing.price, whole.price_ticks)
        np.testing.assert_array_equal(crossing.imbalance, whole.imbalance_lots)
        traded += int(whole.volume_lots.sum())
    assert traded > 500


# --- The order of those that are equal.


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 2, 3), (12, 2, 3)], ids=str)
def test_shuffled_numbers_differ_and_favour_nobody(shape):
    size, draws = int(np.prod(shape)), 8_192
    keys = jax.random.split(jax.random.key(5), draws)
    numbers = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, shape)))(keys)).reshape(draws, size)
    assert (np.diff(np.sort(numbers, axis=1), axis=1) > 0).all(), "two numbers are equal"
    assert numbers.min() >= 0
    assert numbers.max() < max(2 ** (size - 1).bit_length(), 2)
    first = [(numbers[:, i] < numbers[:, j]).mean() for i in range(size) for j in range(i)]
    assert np.abs(np.asarray(first) - 0.5).max(initial=0.0) < 5 * 0.5 / draws**0.5  # five standard errors


# --- Traders without intelligence.

TRADERS, MARKETS, TOP = 50, 64, 1_000


def all_surplus(worth, filled):
    return [oracle.surplus(w, f) for w, f in zip(worth.T.tolist(), filled.T.tolist(), strict=True)]


def best_of_all(worth):
    return [oracle.best_surplus(w[:TRADERS], w[TRADERS:]) for w in worth.T.tolist()]


def auction_of(lots, limits, reference, priority):
    """One auction of every market, of arrays `[2 * TRADERS, MARKETS]`; prices and fills of the same shape."""
    arrays = (lots[:, None, None], limits[:, None, None], reference[None], priority[:, None, None])
    cleared, _ = many(*(array.astype(np.int32) for array in arrays))
    assert not (cleared.refused | cleared.self_matched).any()
    return np.asarray(cleared.price_ticks)[0], np.asarray(cleared.filled)[:, 0, 0]


def test_honest_traders_gain_all_there_is_in_one_auction():
    rng = np.random.default_rng(7)
    worth = rng.integers(1, TOP + 1, (2 * TRADERS, MARKETS))
    lots = np.where(np.arange(2 * TRADERS) < TRADERS, 1, -1)[:, None] * np.ones_like(worth)
    priority = rng.random(worth.shape).argsort(0)
    _, filled = auction_of(lots, worth, np.full(MARKETS, TOP // 2), priority)
    assert all_surplus(worth, filled) == best_of_all(worth)


def test_zero_intelligence_is_almost_efficient():
    """Gode and Sunder (1993): traders that bid at random, but never at a loss, gain nearly all there is to gain."""
    rng = np.random.default_rng(8)
    worth = rng.integers(1, TOP + 1, (2 * TRADERS, MARKETS))
    side = np.where(np.arange(2 * TRADERS) < TRADERS, 1, -1)[:, None] * np.ones_like(worth)
    open_lots, reference, gained, after = side.copy(), np.full(MARKETS, TOP // 2), np.zeros(MARKETS), []
    for _ in range(50):
        limits = np.where(side > 0, rng.integers(1, worth, endpoint=True), rng.integers(worth, TOP, endpoint=True))
        priority = rng.random(worth.shape).argsort(0)
        price, filled = auction_of(open_lots, limits, reference, priority)
        if not after:
            firsts = [
                oracle.auctions(*(array[:, None, None].tolist() for array in (lots, limit)), [TOP // 2], ranks)[0]
                for lots, limit, ranks in zip(side.T, limits.T, priority.T[..., None, None].tolist(), strict=True)
            ]
            assert all_surplus(worth, filled) == [
                oracle.surplus(w, [lot for (lot,) in first.filled])
                for w, first in zip(worth.T.tolist(), firsts, strict=True)
            ]
        gained += all_surplus(worth, filled)
        open_lots, reference = open_lots - filled, price
        after.append((gained / best_of_all(worth)).mean())
    assert after[-1] >= 0.95
    assert after[0] < after[9] < after[-1] <= 1.0
    assert ((open_lots == 0) | (open_lots == side)).all()
