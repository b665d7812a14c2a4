"""How many orders per second a call auction takes, beside a simulator that keeps aggregate volumes only.

    python -m benchmarks.auction [--quick] [--json PATH]

`jaxarena` is the market itself, everything on: four kinds of scripted agents draw fresh orders, pre-trade checks, the
auction with its fill for every agent, the exact ledger, fees, marks, margin calls. `jaxarena+observations` adds what
8 learned agents among 64 see. `aggregate_port` is a plain JAX version of the mechanism of aggregate simulators
(volumes on a price grid, in which agents have no cash, no inventory and no fills), written here for comparison. An
event is an order slot that is not empty. All programs are compiled first, then timed in turn, round after round; a row
gives the median. Everything that a step computes is kept in the carry or added into it.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxarena.agents import Fundamentalist, MarketMaker, NoiseTrader, TrendFollower
from jaxarena.core.batching import vmap_last
from jaxarena.core.draws import fold_in
from jaxarena.core.reduce import map_reduce, total
from jaxarena.core.types import Orders
from jaxarena.env.actions import LimitQuotes
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import AuctionBook, Inventory, OwnOrders
from jaxarena.env.rewards import ValueProfit
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.market.auction import CallAuction
from jaxarena.market.costs import Financing, MakerTakerFees
from jaxarena.market.ledger import pay, settle_trades
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

#: Orders are drawn within this many ticks, the width of the price grid of the aggregate simulator.
TICKS = 128
LIMITS = RiskLimits(allow_short=True, max_position_lots=200, max_leverage=2.0)


@dataclasses.dataclass
class Program:
    """A compiled function from a state to the next one that counts its events in `state[-1]`, `[E]`."""

    name: str
    markets: int
    agents: int
    call: Callable[[Any], Any]
    state: Any
    compile_s: float = 0.0
    events: int = 0
    rates: list[float] = dataclasses.field(default_factory=list)

    def compile(self) -> None:
        """Compile and run once."""
        start = time.perf_counter()
        self.call = jax.jit(self.call, donate_argnums=0).lower(self.state).compile()
        self.compile_s = time.perf_counter() - start
        self.state = jax.block_until_ready(self.call(self.state))
        self.events = int(self.state[-1].sum())

    def time(self) -> None:
        """Run once more and note the rate."""
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.call(self.state))
        seconds = time.perf_counter() - start
        events = int(self.state[-1].sum())
        self.rates.append((events - self.events) / seconds)
        self.events = events

    @property
    def rate(self) -> float:
        """Median events per second."""
        return statistics.median(self.rates)

    def row(self) -> dict[str, Any]:
        """The result."""
        return {
            "name": self.name,
            "markets": self.markets,
            "agents": self.agents,
            "ticks": TICKS,
            "agent_events_per_s": self.rate,
            "compile_s": self.compile_s,
            "device": jax.devices()[0].device_kind,
        }


def market(agents: int, learned: int) -> tuple[MarketEnv, MarketParams]:
    """Four kinds of scripted agents in equal parts, all of whom quote in every auction, and learned makers."""
    scripted = agents - learned
    part = scripted // 4
    common: dict[str, Any] = {"cash": 100_000.0, "limits": LIMITS}
    roles = (
        Role(name="noise", count=scripted - 3 * part, strategy=NoiseTrader(trade_probability=1.0), **common),
        Role(
            name="fundamental",
            count=part,
            strategy=Fundamentalist(),
            signal_noise_bps=60.0,
            **common,
        ),
        Role(name="trend", count=part, strategy=TrendFollower(), **common),
        Role(name="dealer", count=part, strategy=MarketMaker(), **common),
        Role(
            name="maker",
            count=learned,
            action=LimitQuotes(),
            observations=(AuctionBook(), Inventory(), OwnOrders()),
            rewards=(ValueProfit(),),
            **common,
        ),
    )
    process = Gbm(ticks_per_unit=100, volatility=0.16, drift=0.0, periods_per_year=25_200.0)
    free = Financing(borrow_rate=0.0, short_fee=0.0)
    params = MarketParams(
        process=process,
        roles=roles,
        mechanism=CallAuction(),
        costs=MakerTakerFees(),
        financing=free,
        indicators=(),
        episode_length=1_000_000,
    )
    return MarketEnv.build(params)


def sent(orders: Orders) -> jax.Array:
    """Slots that are not empty, `[]` int32."""
    return total(map_reduce(jnp.add, lambda lots: total((lots != 0).astype(jnp.int32), 2), orders.lots))


def ours(num_markets: int, agents: int, learned: int, steps: int, *, observe: bool) -> Program:
    """The market with random actions of its learned agents; outputs are reduced into the carry."""
    env, params = market(agents, learned)

    def one(key: jax.Array, state: Any, action: Any) -> tuple[Any, jax.Array, jax.Array]:
        orders = env.decide(fold_in(key, 0), state, action, params).orders  # the same as in the step: computed once
        state, reward, *_ = env.transition(key, state, action, params)
        seen = total(env.observe(state, params)["maker"].reshape(-1)) if observe else jnp.zeros(())
        return state, total(reward["maker"]) + seen, sent(orders)

    step = vmap_last(one, (True, True, True))
    markets = Markets(env, num_markets)

    def call(carry: Any) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            state, keys, sums, events = carry
            keys = vmap_last(lambda key: fold_in(key, 1), (True,))(keys)
            actions = {"maker": jax.random.uniform(keys[0], (learned, 4, num_markets), minval=-1.0)}
            state, told, sent = step(keys, state, actions)
            return (state, keys, sums + told, events + sent), None

        return jax.lax.scan(body, carry, None, steps)[0]

    _, start = jax.jit(markets.reset)(jax.random.key(0), params)
    carry = (start.market, start.episode_key, jnp.zeros(num_markets), jnp.zeros(num_markets, jnp.int32))
    return Program("jaxarena+observations" if observe else "jaxarena", num_markets, agents, call, carry)


def trading(num_markets: int, agents: int, steps: int) -> Program:
    """Orders, auction and books alone: no pre-trade checks, marks, margin calls or rewards; one agent only watches."""
    env, params = market(agents, 1)

    def one(key: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        nothing = {"maker": -jnp.ones((1, 4))}
        orders = env.decide(fold_in(key, 0), state, nothing, params).orders
        process, quote = env.advance(fold_in(key, 1), state, params)
        mechanism, orders, _ = params.mechanism.admit(state.mechanism, orders, quote)
        mechanism, fills, bar = params.mechanism.clear(fold_in(key, 2), mechanism, orders, quote, params.tick_value)
        ledger = settle_trades(state.ledger, fills)
        lots = fills.bought + fills.sold
        fees = params.costs.fee(fills.cash.abs(), lots, fills.maker_lots, params.quanta_per_unit).sum(1)
        after = state.replace(
            process=process,
            mechanism=mechanism,
            ledger=pay(ledger, fees, to="exchange"),
            window=state.window.push(bar),
            close=quote.bar.close,
            private=state.private.replace(signals=env.signals(fold_in(key, 3), quote.bar.close, params)),
        )
        return after, sent(orders)

    step = vmap_last(one, (True, True))
    markets = Markets(env, num_markets)

    def call(carry: Any) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            state, keys, events = carry
            keys = vmap_last(lambda key: fold_in(key, 1), (True,))(keys)
            state, sent = step(keys, state)
            return (state, keys, events + sent), None

        return jax.lax.scan(body, carry, None, steps)[0]

    _, start = jax.jit(markets.reset)(jax.random.key(0), params)
    carry = (start.market, start.episode_key, jnp.zeros(num_markets, jnp.int32))
    return Program("jaxarena", num_markets, agents, call, carry)


def aggregate_port(num_markets: int, agents: int, steps: int) -> Program:
    """Noise, fundamental, momentum and market-making agents who add volume to a grid of prices.

    One order per agent and step: side by kind, price normally distributed around the last price, size of 1 to 10
    lots. The grid's volumes rest from step to step; demand and supply are cumulated, the price of the largest volume
    (the lowest one of several) clears, and the volume that traded is taken from the best prices of each side.
    """
    kind = jnp.arange(agents) * 4 // agents
    rows, levels = jnp.arange(num_markets)[:, None], jnp.arange(TICKS)

    def body(carry: Any, _: None) -> tuple[Any, None]:
        bids, asks, price, before, key, events = carry
        key, key_side, key_price, key_size = jax.random.split(key, 4)
        trend = jnp.sign(price - before)[:, None]
        gap = jnp.clip((TICKS / 2 - price)[:, None] * 0.02, -0.4, 0.4)
        lean = jnp.select([kind == 1, kind == 2], [gap, 0.4 * trend], 0.0)
        buys = jax.random.uniform(key_side, (num_markets, agents)) < 0.5 + lean
        scale = jnp.where(kind == 3, 2.0, 8.0)
        away = jnp.where(kind == 3, jnp.where(buys, -3.0, 3.0), 0.0)
        drawn = price[:, None] + away + scale * jax.random.normal(key_price, (num_markets, agents))
        level = jnp.clip(jnp.round(drawn), 0, TICKS - 1).astype(jnp.int32)
        size = jax.random.randint(key_size, (num_markets, agents), 1, 11)
        bids = bids.at[rows, level].add(jnp.where(buys, size, 0))
        asks = asks.at[rows, level].add(jnp.where(buys, 0, size))
        demand, supply = jnp.cumsum(bids[:, ::-1], axis=1)[:, ::-1], jnp.cumsum(asks, axis=1)
        matched = jnp.minimum(demand, supply)
        best = jnp.argmax(matched, axis=1)
        volume = jnp.take_along_axis(matched, best[:, None], axis=1)
        bids = bids - jnp.clip(volume - (demand - bids), 0, bids)
        asks = asks - jnp.clip(volume - (supply - asks), 0, asks)
        bids = jnp.where(levels < best[:, None] - TICKS // 4, 0, bids)  # stale volume is forgotten
        asks = jnp.where(levels > best[:, None] + TICKS // 4, 0, asks)
        after = jnp.where(volume[:, 0] > 0, best.astype(jnp.float32), price)
        return (bids, asks, after, price, key, events + agents), None

    def call(carry: Any) -> Any:
        return jax.lax.scan(body, carry, None, steps)[0]

    nothing = jnp.zeros((num_markets, TICKS), jnp.int32)
    middle = jnp.full(num_markets, TICKS / 2)
    # Two buffers each: the state is donated.
    carry = (nothing, nothing + 0, middle, middle + 0.0, jax.random.key(0), jnp.zeros(num_markets, jnp.int32))
    return Program("aggregate_port", num_markets, agents, call, carry)


def measure(programs: list[Program], rounds: int) -> None:
    """Compile all, then time them in turn, and print."""
    for program in programs:
        program.compile()
    for _ in range(rounds):
        for program in programs:
            program.time()
    for program in programs:
        print(
            f"{program.name:22s} E={program.markets:5d} N={program.agents:4d} L={TICKS:4d} "
            f"{program.rate / 1e6:9.2f} M events/s   compile {program.compile_s:5.1f} s",
            flush=True,
        )


def run(quick: bool) -> list[dict[str, Any]]:
    """All groups; `quick` keeps the headline sizes and few rounds."""
    rounds, steps = (5, 8) if quick else (9, 16)
    shapes = [(1024, 256), (4096, 64)] + ([] if quick else [(8192, 256)])
    rows = []
    for num_markets, agents in shapes:
        pair = [
            aggregate_port(num_markets, agents, steps),
            trading(num_markets, agents, steps),
            ours(num_markets, agents, agents // 8, steps, observe=False),
        ]
        measure(pair, rounds)
        print(f"  jaxarena takes {pair[1].rate / pair[0].rate:.2f} x the orders of the aggregate port")
        rows += [program.row() for program in pair]
    pair = [ours(1024, 64, 8, 2 * steps, observe=observe) for observe in (False, True)]
    measure(pair, rounds)
    print(f"  with observations of 8 learned agents among 64: {pair[1].rate / pair[0].rate:.2f} x the rate without")
    return rows + [program.row() for program in pair]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Orders per second of call auctions, beside an aggregate simulator.")
    parser.add_argument("--quick", action="store_true", help="the headline sizes only, fewer rounds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
