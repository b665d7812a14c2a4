"""Strategies that quote prices: the population of a market that makes its own price.

They read the book of the last auction and send limit orders. Agents of one strategy differ by traits drawn at reset
(memories, horizons, spreads). The defaults are calibrated together, on `CallAuction-v0`: the noise of trading is about
as large as the news, and traders who react to the price's own moves make that noise come in bursts.
Belongs here: rules for markets with an auction. Does not belong here: rules on weights
(`investors`).
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxarena.agents.base import Strategy
from jaxarena.core.checks import expect_range
from jaxarena.core.draws import bits, uniforms
from jaxarena.core.once import once
from jaxarena.core.reduce import mean
from jaxarena.core.tree import static
from jaxarena.core.types import BookView, Orders
from jaxarena.market.costs import BPS
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS
from jaxarena.market.views import AccountView, MarketView

#: Bars over which traders may remember how much prices moved; each trader has one of them.
MEMORIES = (1, 4, 16, 64)
#: Sizes that a noise trader draws are at most this.
MAX_NOISE_LOTS = 15


class _Quoter(Strategy):
    """Reads the book of the last auction."""

    quotes: ClassVar[bool] = True

    def _book(self, market: MarketView) -> BookView:
        if market.book is None:
            raise ValueError(f"strategy {self.kind()!r}: the mechanism shows no book; use it with a call_auction")
        return market.book


class ZeroIntelligence(_Quoter):
    """Zero-intelligence traders with a budget constraint: random offers, never at a loss.

    An agent values one unit of `unit_lots` at the opening price times `1 + private value`. A buyer without a unit bids
    uniformly between `1 - range_bps` of the opening price and its value; a seller with one asks uniformly between its
    value and `1 + range_bps`. Who has traded is done. Needs `private_value_bps`.
    Source: Gode and Sunder (1993), ZI-C traders.
    """

    side: Literal["buy", "sell"] = static(default="buy")
    unit_lots: int = 1
    opening_ticks: float = 10_000.0  # the price around which values lie
    range_bps: float = 500.0

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """One limit order until it has filled."""
        if account.private_value is None:
            raise ValueError("strategy 'zero_intelligence': its role needs private_value_bps")
        draws = uniforms(key, account.positions.shape)
        reach = jnp.asarray(self.range_bps) * jnp.float32(BPS)
        value = jnp.clip(account.private_value, -reach, reach)[:, None]
        buys = self.side == "buy"
        offer = -reach + draws * (value + reach) if buys else value + draws * (reach - value)
        ticks = jnp.asarray(self.opening_ticks) * (1.0 + offer)
        ticks = jnp.floor(ticks) if buys else jnp.ceil(ticks)  # toward what the agent gains from
        missing = self.unit_lots - account.positions if buys else -account.positions
        lots = jnp.maximum(missing, 0) if buys else jnp.minimum(missing, 0)
        return _limit_orders(lots, ticks)

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.unit_lots", self.unit_lots, 1, 1_000_000)
        expect_range(f"{where}.opening_ticks", self.opening_ticks, 1.0, MAX_TICKS / 2)
        expect_range(f"{where}.range_bps", self.range_bps, 1.0, 9_000.0)


class NoiseTrader(_Quoter):
    """Trades for reasons of its own, with Poisson sizes, and more when it has seen prices move.

    Its activity is `a = clip(moved / calm_bps, lowest, highest)`, where `moved` is the mean absolute return over its
    own memory out of `MEMORIES`. In a step it comes with probability `min(a * trade_probability, 1)` and sends
    `1 + Poisson(mean_lots - 1)` lots at a limit drawn uniformly within `a * reach_bps` of the reference. It buys with
    probability `(1 - pull * position / largest position) / 2`. Large moves so bring more and bolder orders, which
    make large moves; traders of many memories make that decay slowly.
    Sources: Müller et al. (1997) for the memories; Kyle (1985) for traders whose reasons lie outside the market.
    """

    n_traits: ClassVar[int] = 1

    trade_probability: float = 0.25
    mean_lots: float = 4.5
    reach_bps: float = 55.0
    calm_bps: float = 4.0  # mean absolute return per step at which the activity is 1
    lowest: float = 0.5
    highest: float = 8.0
    pull: float = 0.5  # with it at 1, a full position is only ever reduced

    @property
    def lookback(self) -> int:
        """The longest memory, and the close before it."""
        return MEMORIES[-1] + 1

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """At most one limit order per asset."""
        reference = self._book(market).price_ticks.astype(jnp.float32)
        shape = account.positions.shape
        words = bits(key, (2, *shape))
        come, size = _halves(words[0])
        side, offset = _halves(words[1])
        activity = once(_moves(market) / (jnp.asarray(self.calm_bps) * jnp.float32(BPS)))  # [4, A]
        activity = jnp.clip(_remembered(activity, account), self.lowest, self.highest)
        lots = 1 + _poisson(size, jnp.asarray(self.mean_lots) - 1.0)
        held = account.positions / jnp.asarray(account.limits.max_position_lots)[:, None]
        buys = side < 0.5 - 0.5 * jnp.asarray(self.pull) * held
        reach = reference * (jnp.asarray(self.reach_bps) * jnp.float32(BPS))
        ticks = reference + (2.0 * offset - 1.0) * reach * activity
        comes = come < jnp.asarray(self.trade_probability) * activity
        return _limit_orders(jnp.where(comes, jnp.where(buys, lots, -lots), 0), ticks)

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.trade_probability", self.trade_probability, 0.0, 1.0)
        expect_range(f"{where}.mean_lots", self.mean_lots, 1.0, 8.0)
        expect_range(f"{where}.reach_bps", self.reach_bps, 0.0, 5_000.0)
        expect_range(f"{where}.calm_bps", self.calm_bps, 0.01, 1_000.0)
        expect_range(f"{where}.lowest", self.lowest, 0.0, 1.0)
        expect_range(f"{where}.highest", self.highest, 1.0, 100.0)
        expect_range(f"{where}.pull", self.pull, 0.0, 1.0)


class Fundamentalist(_Quoter):
    """Trades toward its private signal of the value, patiently or not.

    With the gap `g = signal / reference - 1`, an agent whose horizon is `h` (log-uniform in `[1, longest]` auctions)
    wants the position `clip(g / full_bps, -1, 1) * max_lots` and expects `g / h` of the gap to close in this auction:
    that is how far beyond the reference it goes. Source: the fundamental part of Chiarella and Iori (2002).
    """

    n_traits: ClassVar[int] = 1

    full_bps: float = 300.0  # gap at which the whole position is held
    max_lots: int = 100
    order_lots: int = 4  # at most, in one auction
    longest: float = 7.0

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """At most one limit order per asset."""
        if account.signal_ticks is None:
            raise ValueError("strategy 'fundamentalist': its role needs signal_noise_bps")
        reference = self._book(market).price_ticks.astype(jnp.float32)
        gap = account.signal_ticks / reference - 1.0
        horizon = jnp.exp(_traits(account)[:, :1] * jnp.log(jnp.asarray(self.longest)))
        full = jnp.asarray(self.full_bps) * jnp.float32(BPS)
        lots = _toward(jnp.clip(gap / full, -1.0, 1.0), self.max_lots, self.order_lots, account)
        return _limit_orders(lots, reference * (1.0 + gap / horizon))

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.full_bps", self.full_bps, 0.1, 10_000.0)
        expect_range(f"{where}.max_lots", self.max_lots, 1, 10_000_000)
        expect_range(f"{where}.order_lots", self.order_lots, 1, 10_000_000)
        expect_range(f"{where}.longest", self.longest, 1.0, 10_000.0)


class TrendFollower(_Quoter):
    """Holds what has risen over its own memory out of `MEMORIES`, and is short of what has fallen.

    With `r` the return over the memory divided by the square root of its length, it wants the position
    `clip(r / full_bps, -1, 1) * max_lots`, and goes `share * |r|` beyond the reference for it.
    Source: the chartist part of Chiarella and Iori (2002).
    """

    n_traits: ClassVar[int] = 1

    full_bps: float = 150.0  # of `r`, at which the whole position is held
    max_lots: int = 20
    order_lots: int = 1  # at most, in one auction
    share: float = 0.1

    @property
    def lookback(self) -> int:
        """The longest memory, and the close before it."""
        return MEMORIES[-1] + 1

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """At most one limit order per asset."""
        reference = self._book(market).price_ticks.astype(jnp.float32)
        close = market.window.close
        trends = [(close[-1] / close[-1 - bars] - 1.0) / bars**0.5 for bars in MEMORIES]
        trend = _remembered(once(jnp.stack(trends)), account)
        full = jnp.asarray(self.full_bps) * jnp.float32(BPS)
        lots = _toward(jnp.clip(trend / full, -1.0, 1.0), self.max_lots, self.order_lots, account)
        return _limit_orders(lots, reference * (1.0 + jnp.sign(lots) * self.share * jnp.abs(trend)))

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.full_bps", self.full_bps, 0.1, 10_000.0)
        expect_range(f"{where}.max_lots", self.max_lots, 1, 10_000_000)
        expect_range(f"{where}.order_lots", self.order_lots, 1, 10_000_000)
        expect_range(f"{where}.share", self.share, 0.0, 10.0)


class MarketMaker(_Quoter):
    """Bids below and asks above the reference, wider when prices move, shifted against its inventory.

    `half = factor * (half_spread_bps + volatility_share * moved)`, with `moved` the mean absolute return of the last
    16 bars and `factor` the agent's own, uniform in `[1, 1 + spread]`. Level `l = 0, 1, ...` quotes
    `reference * (1 - skew * half * inventory / max_lots ± half * (1 + l))`, bids rounded down and asks up, for
    `size_lots` each, or what is left on that side until the inventory is `max_lots`.
    Source: linear form of Avellaneda and Stoikov (2008).
    """

    n_traits: ClassVar[int] = 1

    levels: int = static(default=1)
    half_spread_bps: float = 2.0
    volatility_share: float = 1.0
    size_lots: int = 5
    max_lots: int = 100
    skew: float = 1.0  # half-spreads by which a full inventory shifts the quotes
    spread: float = 1.0

    @property
    def lookback(self) -> int:
        """Bars over which it measures how prices move."""
        return MEMORIES[-1] + 1

    @property
    def n_slots(self) -> int:
        """A bid and an ask for each level."""
        return 2 * self.levels

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """Bids, then asks."""
        reference = self._book(market).price_ticks.astype(jnp.float32)
        moved = once(_moves(market)[MEMORIES.index(16)])
        half = jnp.asarray(self.half_spread_bps) * jnp.float32(BPS) + jnp.asarray(self.volatility_share) * moved
        half = half * (1.0 + _traits(account)[:, :1] * self.spread)  # [n, A]
        inventory = account.positions / jnp.asarray(self.max_lots)
        middle = 1.0 - self.skew * inventory * half
        room = [jnp.clip(self.max_lots - sign * account.positions, 0, self.size_lots) for sign in (1, -1)]
        lots, ticks = [], []
        for sign, of_side in ((1, room[0]), (-1, room[1])):
            for level in range(self.levels):
                lots.append(sign * of_side)
                ticks.append(reference * (middle - sign * half * (1.0 + level)))
        prices = [jnp.floor(t) for t in ticks[: self.levels]] + [jnp.ceil(t) for t in ticks[self.levels :]]
        return Orders(lots=jnp.stack(lots, axis=2), limit_ticks=_in_range(jnp.stack(prices, axis=2)))

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.levels", self.levels, 1, 100)
        expect_range(f"{where}.half_spread_bps", self.half_spread_bps, 0.1, 1_000.0)
        expect_range(f"{where}.volatility_share", self.volatility_share, 0.0, 100.0)
        expect_range(f"{where}.size_lots", self.size_lots, 1, 10_000_000)
        expect_range(f"{where}.max_lots", self.max_lots, 1, 10_000_000)
        expect_range(f"{where}.skew", self.skew, 0.0, 100.0)
        expect_range(f"{where}.spread", self.spread, 0.0, 100.0)


def _limit_orders(lots: jax.Array, ticks: jax.Array) -> Orders:
    """One limit order per agent and asset; `ticks` in float32 are rounded to the nearest."""
    return Orders(lots=lots[..., None], limit_ticks=_in_range(jnp.round(ticks))[..., None])


def _in_range(ticks: jax.Array) -> jax.Array:
    return jnp.clip(ticks, MIN_TICKS, MAX_TICKS).astype(jnp.int32)


def _toward(share: jax.Array, max_lots: int, order_lots: int, account: AccountView) -> jax.Array:
    """Lots toward a share of the largest position, not more than an order's at once, `[n, A]` int32."""
    wanted = jnp.round(share * max_lots).astype(jnp.int32) - account.positions
    return jnp.clip(wanted, -order_lots, order_lots)


def _moves(market: MarketView) -> jax.Array:
    """Mean absolute return per bar over each of `MEMORIES`, `[4, A]`."""
    close = market.window.close
    moved = jnp.abs(close[1:] / close[:-1] - 1.0)
    return jnp.stack([mean(moved[-bars:]) for bars in MEMORIES])


def _remembered(by_memory: jax.Array, account: AccountView) -> jax.Array:
    """For each agent the row of its own memory: `[4, A]` to `[n, A]`."""
    trait = _traits(account)[:, :1]
    chosen = jnp.broadcast_to(by_memory[0], account.positions.shape)
    for index in range(1, len(MEMORIES)):
        chosen = jnp.where(trait >= index / len(MEMORIES), by_memory[index], chosen)
    return chosen


def _traits(account: AccountView) -> jax.Array:
    if account.traits is None:
        raise ValueError("the strategy has traits but none were drawn; build the market with MarketEnv.build")
    return account.traits


def _halves(words: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two uniform numbers in (0, 1) from the halves of a 32-bit word, of 16 bits each."""
    scale, shift = jnp.float32(2.0**-16), jnp.float32(2.0**-17)
    high, low = words >> 16, words & jnp.uint32(0xFFFF)
    return high.astype(jnp.float32) * scale + shift, low.astype(jnp.float32) * scale + shift


def _poisson(uniform: jax.Array, rate: jax.Array) -> jax.Array:
    """Poisson numbers by inversion of their distribution, cut at `MAX_NOISE_LOTS - 1`; int32."""
    count = jnp.zeros(uniform.shape, jnp.int32)
    term = below = jnp.exp(-rate)
    for k in range(1, MAX_NOISE_LOTS):
        count = count + (uniform > below).astype(jnp.int32)
        term = term * rate / k
        below = below + term
    return count
