"""Observation blocks: named slices of what an agent sees, in comparable units.

A block either describes the market, once for everybody, or the agent's own account. Values are
clipped to `[-LIMIT, LIMIT]` and never NaN. Each docstring lists the block's features with shape, unit and formula; the
documentation is made from these lists. Belongs here: features of bar t. Nothing here may read a later bar: the views do
not hold one.
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range
from jaxarena.core.component import Component
from jaxarena.core.once import once
from jaxarena.core.reduce import mean, total
from jaxarena.core.tree import static
from jaxarena.market.costs import BPS
from jaxarena.market.views import AccountView, MarketView

LIMIT = 10.0


class Observation(Component, family="observation"):
    """A block of features."""

    #: True when the block is the same for all agents of a market.
    shared: ClassVar[bool] = True

    @property
    def lookback(self) -> int:
        """Bars of the window that it reads."""
        return 1

    def validate(self, where: str) -> None:
        """Raise ValueError for parameters without meaning. Host only."""

    @abstractmethod
    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """Features: `[D]` for a shared block, `[n, D]` for one of the account."""


class BarReturns(Observation):
    """The last `length` bars of each asset, as returns on the close before each of them.

    `D = 5 * length * A`: by bar, oldest first, then feature, then asset.

    Features:
        - `open [length, A]`, return times `scale`: `scale * (open / close before the bar - 1)`
        - `high [length, A]`, return times `scale`: `scale * (high / close before the bar - 1)`
        - `low [length, A]`, return times `scale`: `scale * (low / close before the bar - 1)`
        - `close [length, A]`, return times `scale`: `scale * (close / close before the bar - 1)`
        - `volume [length, A]`, share of a mean: `volume / mean volume of the length bars - 1`
    """

    length: int = static(default=8)  # bars
    scale: float = 30.0  # a move of 3 % becomes about 1

    @property
    def lookback(self) -> int:
        """One bar more than are shown."""
        return self.length + 1

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.length", self.length, 1, 10_000)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[length * 5 * A]`."""
        window = market.window
        before = window.close[-self.length - 1 : -1]
        prices = [window.open, window.high, window.low, window.close]
        returns = [(price[-self.length :] / before - 1.0) * self.scale for price in prices]
        volume = window.volume[-self.length :]
        relative = volume / jnp.maximum(mean(volume), 1.0) - 1.0
        return jnp.stack([*returns, relative], axis=1).reshape(-1)


class Indicators(Observation):
    """The scale-free features of all indicators of the market.

    `D = F * A` with `F` the outputs of all indicators together: by indicator as configured, output, asset.

    Features:
        - `features [F, A]`, none, in [-3, 3]: `Indicator.features`, as each indicator says; 0 while it warms up
    """

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[sum of outputs * A]`."""
        return jnp.concatenate([feature.reshape(-1) for feature in market.features])


class MarketFlow(Observation):
    """Recent net flow of all agents over the market's depth. `D = A`.

    Features:
        - `flow [A]`, share of depth times `scale`: `scale * f`, where every step makes `f` into
          `flow_memory * f + (lots bought - lots sold by all agents) / depth`
    """

    scale: float = 20.0  # a flow of 5 % of the depth becomes 1

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[A]`."""
        return market.flow * self.scale


class Signal(Observation):
    """What the process announces about the next return. `D = A`.

    Features:
        - `signal [A]`, as the process defines it: `Process.signal`; of `planted_signal` the direction, -1 or +1
    """

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[A]`."""
        if market.signal is None:
            raise ValueError(
                "observation 'signal': the process announces none; remove the block or use another process"
            )
        return market.signal


class TimeLeft(Observation):
    """The share of the episode still ahead; only for a terminal horizon. `D = 1`.

    Features:
        - `time_left [1]`, share of the episode: `1 - t / episode_length`
    """

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[1]`."""
        return market.time_left[None]


class Portfolio(Observation):
    """The agent's own account. `D = 5 + 2 * A`.

    Features:
        - `cash [1]`, share of equity: `cash / equity`
        - `leverage [1]`, multiple of equity: `sum over assets of abs(weight)`
        - `growth [1]`, log return times 5: `5 * log(equity / initial equity)`
        - `drawdown [1]`, share of the peak times 5: `5 * (1 - equity / peak equity)`
        - `room [1]`, share of the limit: `1 - leverage / largest leverage`, 1 when nothing is invested, 0 at the limit
        - `weight [A]`, share of equity: `lots * mid / equity`
        - `profit [A]`, return times 5: `5 * sign(lots) * (mid / average entry price - 1)`, unrealised
    """

    shared: ClassVar[bool] = False

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, 5 + 2 A]`."""
        weights = account.weights(market.mid)
        leverage = total(jnp.abs(weights), 1)
        growth = jnp.log(account.safe_equity / account.initial_equity)
        profit = jnp.sign(account.positions) * (market.mid / jnp.maximum(account.entry_price, 1.0) - 1.0)
        own = [
            account.cash / account.safe_equity,
            leverage,
            5.0 * growth,
            5.0 * account.drawdown,
            1.0 - leverage / jnp.maximum(account.limits.leverage(), 1e-3),
        ]
        return jnp.concatenate([jnp.stack(own, axis=1), weights, 5.0 * profit], axis=1)


class AuctionBook(Observation):
    """What the last auction told. `D = 7 * A`: by feature, then asset.

    Features:
        - `return [A]`, multiples of `unit_bps`: `(close / close before - 1) / unit`
        - `half_spread [A]`, multiples of `unit_bps`: `half-spread / price / unit`, a recent average
        - `imbalance [A]`, share: `(wanted - offered) / (volume + abs(wanted - offered) + 1)` at the price
        - `volume [A]`, log lots over `log_lots`: `log(1 + lots traded) / log_lots`
        - `bids [A]`, log lots over `log_lots`: `log(1 + unfilled bid lots near the price) / log_lots`
        - `asks [A]`, log lots over `log_lots`: `log(1 + unfilled ask lots near the price) / log_lots`
        - `middle [A]`, multiples of `unit_bps`: `((best bid + best ask) / 2 / price - 1) / unit` of unfilled orders, 0
          where a side has none
    """

    unit_bps: float = 10.0  # `unit` is this many hundredths of a percent
    log_lots: float = 5.0  # about the log of the lots that a busy auction trades

    @property
    def lookback(self) -> int:
        """The last close and the one before it."""
        return 2

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)
        expect_range(f"{where}.log_lots", self.log_lots, 1e-3, 100.0)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[7 * A]`."""
        if market.book is None:
            raise ValueError("observation 'auction_book': the mechanism shows no book; use it with a call_auction")
        book, close = market.book, market.window.close
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        price = book.price_ticks.astype(jnp.float32)
        both = (book.best_bid_ticks > 0) & (book.best_ask_ticks > 0)
        middle = 0.5 * (book.best_bid_ticks + book.best_ask_ticks)
        amounts = [jnp.log1p(x) / self.log_lots for x in (book.volume_lots, book.bid_lots, book.ask_lots)]
        one_sided = book.imbalance_lots / (book.volume_lots + jnp.abs(book.imbalance_lots) + 1.0)
        features = [
            (close[-1] / close[-2] - 1.0) * unit,
            book.half_spread_ticks / price * unit,
            one_sided,
            *amounts,
            jnp.where(both, middle / price - 1.0, 0.0) * unit,
        ]
        return jnp.concatenate(features)


class PrivateSignal(Observation):
    """How far the agent's private signal of the value lies above the price. `D = A`.

    Features:
        - `gap [A]`, multiples of `unit_bps`: `(signal / price - 1) / unit`
    """

    shared: ClassVar[bool] = False

    unit_bps: float = 30.0  # `unit` is this many hundredths of a percent

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, A]`."""
        if account.signal_ticks is None or market.book is None:
            raise ValueError("observation 'private_signal': its role needs signal_noise_bps, and a call_auction")
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        return (account.signal_ticks / market.book.price_ticks - 1.0) * unit


class Inventory(Observation):
    """The agent's position, against the largest one that it may hold. `D = A + 1`.

    Features:
        - `position [A]`, share of the limit: `lots / max_position_lots`
        - `cash [1]`, share of equity: `cash / equity - 1`
    """

    shared: ClassVar[bool] = False

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, A + 1]`."""
        share = account.positions / jnp.asarray(account.limits.max_position_lots)[:, None]
        return jnp.concatenate([share, (account.cash / account.safe_equity - 1.0)[:, None]], axis=1)


class OwnOrders(Observation):
    """The agent's own order slots, after the last auction. `D = 4 * A * K`: by feature, then asset, then slot.

    Features:
        - `filled [A, K]`, multiples of `lots`: `signed lots filled in the last auction / lots`
        - `resting [A, K]`, multiples of `lots`: `signed lots still in the book / lots`
        - `distance [A, K]`, multiples of `unit_bps`: `(resting limit / price - 1) / unit`, 0 for an empty slot
        - `age [A, K]`, ten auctions: `auctions rested / 10`, the place in the queue where time has priority
    """

    shared: ClassVar[bool] = False

    lots: float = 10.0  # lots that count as 1
    unit_bps: float = 10.0  # `unit` is this many hundredths of a percent

    def validate(self, where: str) -> None:
        """See `Observation.validate`."""
        expect_range(f"{where}.lots", self.lots, 1e-3, 1e9)
        expect_range(f"{where}.unit_bps", self.unit_bps, 1e-3, 1e4)

    def observe(self, market: MarketView, account: AccountView) -> jax.Array:
        """`[n, 4 * A * K]`."""
        if account.orders is None or market.book is None:
            raise ValueError("observation 'own_orders': orders do not last in this market; use it with a call_auction")
        own, n = account.orders, account.positions.shape[0]
        unit = 1.0 / (jnp.asarray(self.unit_bps) * jnp.float32(BPS))
        away = own.resting_ticks / market.book.price_ticks[:, None] - 1.0
        features = [
            own.filled_lots / self.lots,
            own.resting_lots / self.lots,
            jnp.where(own.resting_lots != 0, away, 0.0) * unit,
            own.resting_age / 10.0,
        ]
        return jnp.concatenate([feature.reshape(n, -1) for feature in features], axis=1)


def join(blocks: tuple[Observation, ...], market: MarketView, account: AccountView) -> jax.Array:
    """One role's observation, `[n, D]`: shared blocks first, broadcast as late as possible, then own ones."""
    n = account.positions.shape[0]
    shared = [_bounded(block.observe(market, account)) for block in blocks if block.shared]
    own = [_bounded(block.observe(market, account)) for block in blocks if not block.shared]
    if shared:
        common = once(jnp.concatenate(shared))  # per market, not per agent
        own = [jnp.broadcast_to(common, (n, common.size)), *own]
    return jnp.concatenate(own, axis=1)


def ordered(blocks: tuple[Observation, ...]) -> list[Observation]:
    """The blocks in the order of their slices."""
    return sorted(blocks, key=lambda block: not block.shared)


def _bounded(values: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(values), 0.0, jnp.clip(values, -LIMIT, LIMIT))
