"""A call auction of one asset, slowly: Python ints, every price that can matter, sorted lists.

Written from the text of `jaxarena.market.auction.clear`, not from its code.
"""

import dataclasses

LOWEST, HIGHEST = 1, 2**30  # prices there are
SIDE_LOTS = 2**30  # a side stays below this


@dataclasses.dataclass
class Order:
    """An order that was admitted; `lots` are positive and `price` is where a market order stands."""

    agent: int
    slot: int
    lots: int
    price: int
    priority: int
    entered: int


@dataclasses.dataclass
class Auction:
    """What came of it; the lists are `[N][K]`, `cash` is `[N]` quanta."""

    price: int
    volume: int
    imbalance: int
    filled: list
    refused: list
    self_matched: list
    cash: list


def most_lots(n_agents, n_slots):
    """The largest order that is admitted."""
    return (SIDE_LOTS - 1) // (n_agents * n_slots)


def demand(buys, price):
    return sum([order.lots for order in buys if order.price >= price])


def supply(sells, price):
    return sum([order.lots for order in sells if order.price <= price])


def best_price(buys, sells, reference):
    """Price, volume and imbalance: most volume, then least imbalance, then nearest to the reference."""
    limits = {order.price for order in buys + sells}
    candidates = {reference, LOWEST, HIGHEST} | {limit + step for limit in limits for step in (-1, 0, 1)}
    found = []
    for price in sorted(p for p in candidates if LOWEST <= p <= HIGHEST):
        wanted, offered = demand(buys, price), supply(sells, price)
        found.append((-min(wanted, offered), abs(wanted - offered), abs(price - reference), price))
    best = min(found)
    price = best[3] if best[0] else reference
    assert not best[0] or sum(other[:3] == best[:3] for other in found) == 1, "the rule would not name one price"
    return price, -best[0], demand(buys, price) - supply(sells, price)


def pro_rata(orders, rest):
    """Lots of each order, by the largest remainder."""
    whole = sum(order.lots for order in orders)
    shares = [order.lots * rest // whole for order in orders]
    left = rest - sum(shares)
    largest = sorted(range(len(orders)), key=lambda i: (-(orders[i].lots * rest % whole), orders[i].priority))
    for i in largest[:left]:
        shares[i] += 1
    return shares


def first_come(orders, rest):
    """Lots of each order, by time."""
    shares = [0] * len(orders)
    for i in sorted(range(len(orders)), key=lambda i: (orders[i].entered, orders[i].priority)):
        shares[i] = min(orders[i].lots, rest)
        rest -= shares[i]
    return shares


def fills(orders, volume, best_first, ration):
    """Pairs of an order of one side and its lots, level by level."""
    result, left = [], volume
    for price in best_first({order.price for order in orders}):
        level = [order for order in orders if order.price == price]
        wanted = sum(order.lots for order in level)
        shares = [order.lots for order in level] if wanted <= left else ration(level, left)
        left -= sum(shares)
        result += zip(level, shares, strict=True)
    return result


def auction(lots, limits, reference, priority, entered=None, tick_value=1):
    """One asset.

    Args:
        lots: `[N][K]` signed, buy positive, 0 for none.
        limits: `[N][K]` ticks, 0 for a market order.
        reference: ticks.
        priority: `[N][K]`, all different.
        entered: `[N][K]` for time priority, None for pro rata.
        tick_value: quanta of a tick of one lot.
    """
    n_agents, n_slots = len(lots), len(lots[0])
    most = most_lots(n_agents, n_slots)
    refused = [[False] * n_slots for _ in lots]
    crossed = [[False] * n_slots for _ in lots]
    filled = [[0] * n_slots for _ in lots]
    all_buys, all_sells = [], []
    for n in range(n_agents):
        buys, sells = [], []
        for k in range(n_slots):
            lot, limit = lots[n][k], limits[n][k]
            if lot == 0:
                continue
            if abs(lot) > most or not (limit == 0 or LOWEST <= limit <= HIGHEST):
                refused[n][k] = True
                continue
            last = HIGHEST if lot > 0 else LOWEST
            order = Order(n, k, abs(lot), limit or last, priority[n][k], entered[n][k] if entered else 0)
            (buys if lot > 0 else sells).append(order)
        for order in buys:
            crossed[n][order.slot] = any(order.price >= other.price for other in sells)
        for order in sells:
            crossed[n][order.slot] = any(order.price <= other.price for other in buys)
        all_buys += [order for order in buys if not crossed[n][order.slot]]
        all_sells += [order for order in sells if not crossed[n][order.slot]]
    price, volume, imbalance = best_price(all_buys, all_sells, reference)
    ration = first_come if entered else pro_rata
    for order, share in fills(all_buys, volume, lambda prices: sorted(prices, reverse=True), ration):
        filled[order.agent][order.slot] = share
    for order, share in fills(all_sells, volume, sorted, ration):
        filled[order.agent][order.slot] = -share
    cash = [-sum(lot * price for lot in row) * tick_value for row in filled]
    return Auction(price, volume, imbalance, filled, refused, crossed, cash)


def auctions(lots, limits, reference, priority, entered=None, tick_values=(1, 1)):
    """One `Auction` for each asset of a market; arguments are nested lists `[N][A][K]` and `[A]`."""

    def of(nested, asset):
        return nested and [row[asset] for row in nested]

    return [
        auction(of(lots, a), of(limits, a), reference[a], of(priority, a), of(entered, a), tick_values[a])
        for a in range(len(reference))
    ]


def surplus(worth, lots):
    """Gains from trade: `worth` is each trader's value or cost of a unit, `lots` what it got, signed."""
    return sum(unit * lot for unit, lot in zip(worth, lots, strict=True))


def best_surplus(values, costs):
    """The most that single units can gain: highest values meet lowest costs while that gains anything."""
    return sum(max(v - c, 0) for v, c in zip(sorted(values, reverse=True), sorted(costs), strict=False))
