"""Action maps: what a policy's output means as orders.

Each map names its space and turns valid actions into signed lots. Invalid actions never reach it:
a value that is not finite, or an integer outside the space, means "do nothing", a number outside the
box is clipped, and both are counted. Each docstring lists the entries of the action with shape, unit and formula; the
documentation is made from these lists.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.agents import toward_weights
from jaxarena.core.checks import expect_range
from jaxarena.core.component import Component
from jaxarena.core.reduce import fold, total
from jaxarena.core.spaces import Box, Discrete, MultiDiscrete, Space
from jaxarena.core.tree import static
from jaxarena.core.types import KEEP, Orders
from jaxarena.market.costs import BPS
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS
from jaxarena.market.views import AccountView, MarketView


class ActionMap(Component, family="action"):
    """Turns the actions of `n` agents into orders."""

    #: Whether it sends limit orders, which not every mechanism takes.
    quotes: ClassVar[bool] = False

    @property
    def n_slots(self) -> int:
        """Order slots per asset that it uses."""
        return 1

    @abstractmethod
    def space(self, n_assets: int) -> Space:
        """Space of one agent's action."""

    @abstractmethod
    def orders(self, action: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """Orders for valid actions, `[n, A, n_slots]`.

        Args:
            action: `[n, ...]` inside the space.
            market: the common view.
            account: the views of the `n` agents.
        """

    def validate(self, where: str) -> None:
        """Raise ValueError for parameters without meaning. Host only."""

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """One agent's action in words, for each of `A` assets. Host only."""
        return [" ".join(f"{number:.2f}" for number in row) for row in np.reshape(action, (n_assets, -1))]

    def decide(self, action: jax.Array, market: MarketView, account: AccountView) -> tuple[Orders, jax.Array]:
        """Orders for any action, `[n, A, n_slots]`, and the number of entries masked or clipped, `[n]` int32."""
        space = self.space(market.mid.size)
        n = account.positions.shape[0]
        flat = action.reshape(n, -1)
        if isinstance(space, Box):
            usable = jnp.isfinite(flat)
            safe = jnp.clip(jnp.where(usable, flat, 0.0), space.low, space.high)
            wrong = ~usable | (safe != flat)
        else:
            sizes = np.asarray(space.sizes if isinstance(space, MultiDiscrete) else (space.n,))
            usable = (flat >= 0) & (flat < sizes)
            safe = jnp.where(usable, flat, 0).astype(jnp.int32)
            wrong = ~usable
        orders = self.orders(safe.reshape(action.shape), market, account)
        usable = fold(jnp.logical_and, usable, axis=1)[:, None, None]
        return jax.tree.map(lambda leaf: jnp.where(usable, leaf, 0), orders), total(wrong.astype(jnp.int32), 1)


class _Trades(ActionMap):
    """One market order per asset."""

    @abstractmethod
    def lots(self, action: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Lots to trade for valid actions, `[n, A]` int32; see `ActionMap.orders`."""

    def orders(self, action: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """See `ActionMap.orders`."""
        return Orders.market(self.lots(action, market, account))


class TargetWeights(_Trades):
    """One number per asset: the signed share of equity to hold in it, scaled by the leverage limit.

    Weights whose absolute values sum to more than 1 are scaled down to 1; what differs from the position is traded.

    Entries:
        - `weight [A]`, share of equity in [low, 1]: `target lots = trunc(weight * largest leverage * equity / mid)`
    """

    low: float = static(default=-1.0)  # 0 for a role that may only be long

    def validate(self, where: str) -> None:
        """See `ActionMap.validate`."""
        expect_range(f"{where}.low", self.low, -1.0, 0.0)

    def space(self, n_assets: int) -> Space:
        """`[A]` numbers."""
        return Box(self.low, 1.0, n_assets)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`.

        >>> TargetWeights().describe(np.array([0.25, -1.5]), 2)
        ['target 20 % of limit', 'target -80 % of limit']
        """
        action = np.clip(action, self.low, 1.0)
        share = action / max(np.abs(action).sum(), 1.0)
        return [f"target {weight:.0%} of limit".replace("%", " %") for weight in share]

    def lots(self, action: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade to the target weights."""
        share = action / jnp.maximum(total(jnp.abs(action), 1), 1.0)[:, None]
        return toward_weights(share * account.limits.leverage()[:, None], market, account)


class TradeFraction(_Trades):
    """One number per asset in [-1, 1]: the sign is the side, the size is the fraction.

    Buying spends that fraction of what the account may still open, split equally over the assets;
    selling sells that fraction of a long position, or opens a short one of that fraction of what the
    account may still open when it is not long. A short position is bought back by its fraction.

    Entries:
        - `fraction [A]`, share in [-1, 1]: `lots = trunc(fraction * abs(position))` when that reduces it, else
          `trunc(fraction * (largest leverage * equity - exposure) / A / mid)`
    """

    def space(self, n_assets: int) -> Space:
        """`[A]` numbers."""
        return Box(-1.0, 1.0, n_assets)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`."""
        return [_fraction_words(fraction) for fraction in np.clip(action, -1.0, 1.0)]

    def lots(self, action: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade fractions."""
        return trade_fraction(action, market, account)


class BuyHoldSell(_Trades):
    """One integer per asset out of `2 * levels + 1`: sell all … sell 1/levels, hold, buy 1/levels … buy all.

    Entries:
        - `choice [A]`, integer in 0 .. 2 levels: `fraction = (choice - levels) / levels`, traded as by `trade_fraction`
    """

    levels: int = static(default=2)  # fractions on each side

    def validate(self, where: str) -> None:
        """See `ActionMap.validate`."""
        expect_range(f"{where}.levels", self.levels, 1, 1_000)

    def space(self, n_assets: int) -> Space:
        """`[A]` integers."""
        return MultiDiscrete((2 * self.levels + 1,) * n_assets)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`.

        >>> BuyHoldSell(levels=2).describe(np.array([0, 2, 3]), 3)
        ['sell 100 %', 'hold', 'buy 50 %']
        """
        return [_fraction_words((choice - self.levels) / self.levels) for choice in action]

    def lots(self, action: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade fractions of `1 / levels`."""
        return trade_fraction((action - self.levels) / self.levels, market, account)


class TargetExposure(_Trades):
    """One integer: the exposure to hold, spread equally over the assets.

    The basis is equity, or initial equity for a reward that is linear in the position.

    Entries:
        - `choice [1]`, integer in 0 .. n_levels - 1: `exposure = low + (high - low) * choice / (n_levels - 1)`, then
          `target lots = trunc(exposure * basis / A / mid)`
    """

    n_levels: int = static(default=3)  # choices
    low: float = -1.0  # exposure of the first choice
    high: float = 1.0  # exposure of the last choice
    basis: Literal["equity", "initial_equity"] = static(default="equity")

    def validate(self, where: str) -> None:
        """See `ActionMap.validate`."""
        expect_range(f"{where}.n_levels", self.n_levels, 2, 1_000)
        expect_range(f"{where}.low", self.low, -100.0, 100.0)
        expect_range(f"{where}.high", self.high, float(self.low), 100.0, "'high' cannot be below 'low'")

    def space(self, n_assets: int) -> Space:
        """One integer."""
        return Discrete(self.n_levels)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`."""
        low, high = float(self.low), float(self.high)
        exposure = low + (high - low) * float(np.squeeze(action)) / (self.n_levels - 1)
        return [f"exposure {exposure:+.2f} x {self.basis.replace('_', ' ')}"] * n_assets

    def lots(self, action: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade to the exposure."""
        step = (jnp.asarray(self.high) - self.low) / (self.n_levels - 1)
        exposure = (self.low + step * action)[:, None] / market.mid.size
        if self.basis == "initial_equity":
            exposure = exposure * (account.initial_equity / account.safe_equity)[:, None]
        return toward_weights(jnp.broadcast_to(exposure, account.positions.shape), market, account)


class LimitQuotes(ActionMap):
    """A market maker's quotes: for every asset and level the distance and size of a bid and of an ask.

    `4 * levels * A` numbers in [-1, 1], by asset, then level, then entry. A distance `d` is measured from the reference
    price of the book: `bps(d) = nearest_bps + (d + 1) / 2 * (farthest_bps - nearest_bps)`.

    Entries:
        - `bid_distance [A, levels]`, in [-1, 1]: `limit = floor(reference * (1 - bps(d) / 10_000))` ticks
        - `ask_distance [A, levels]`, in [-1, 1]: `limit = ceil(reference * (1 + bps(d) / 10_000))` ticks, at least one
          above all of the agent's own bids
        - `bid_size [A, levels]`, in [-1, 1]: `lots = round((s + 1) / 2 * max_lots)`, bought
        - `ask_size [A, levels]`, in [-1, 1]: `lots = round((s + 1) / 2 * max_lots)`, sold
    """

    quotes: ClassVar[bool] = True

    levels: int = static(default=1)  # bids, and asks, per asset
    nearest_bps: float = -5.0  # negative: beyond the reference
    farthest_bps: float = 25.0
    max_lots: int = 10  # of one quote

    @property
    def n_slots(self) -> int:
        """A bid and an ask for each level."""
        return 2 * self.levels

    def validate(self, where: str) -> None:
        """See `ActionMap.validate`."""
        expect_range(f"{where}.levels", self.levels, 1, 100)
        expect_range(f"{where}.nearest_bps", self.nearest_bps, -5_000.0, 5_000.0)
        low = float(self.nearest_bps)
        expect_range(f"{where}.farthest_bps", self.farthest_bps, low, 5_000.0, "it cannot be nearer than 'nearest_bps'")
        expect_range(f"{where}.max_lots", self.max_lots, 1, 2**30)

    def space(self, n_assets: int) -> Space:
        """`[4 * levels * A]` numbers."""
        return Box(-1.0, 1.0, 4 * self.levels * n_assets)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`.

        >>> LimitQuotes().describe(np.array([1.0, 0.0, -1.0, 1.0]), 1)
        ['bid 0 at 25.0 bps, ask 10 at 10.0 bps']
        """
        share = (np.clip(np.reshape(action, (n_assets, self.levels, 4)), -1.0, 1.0) + 1.0) / 2.0
        nearest, farthest = float(self.nearest_bps), float(self.farthest_bps)
        bps, lots = nearest + share[..., :2] * (farthest - nearest), np.round(share[..., 2:] * int(self.max_lots))
        sides = ("bid", "ask")
        return [
            ", ".join(
                f"{sides[side]} {lots[asset, level, side]:.0f} at {bps[asset, level, side]:.1f} bps"
                for level in range(self.levels)
                for side in (0, 1)
            )
            for asset in range(n_assets)
        ]

    def orders(self, action: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """Bids of all levels, then asks."""
        reference = _reference(self, market)[:, None]  # [A, 1]
        share = (action.reshape(action.shape[0], -1, self.levels, 4) + 1.0) * 0.5  # [n, A, levels, 4]
        bps = self.nearest_bps + share[..., :2] * (jnp.asarray(self.farthest_bps) - self.nearest_bps)
        away = bps * (reference[..., None] * jnp.float32(BPS))
        lots = jnp.round(share[..., 2:] * self.max_lots).astype(jnp.int32)
        bid = jnp.floor(reference - away[..., 0])
        highest = fold(jnp.maximum, jnp.where(lots[..., 0] > 0, bid, 0.0), 2)[..., None]
        ask = jnp.maximum(jnp.ceil(reference + away[..., 1]), highest + 1.0)
        ticks = jnp.clip(jnp.concatenate([bid, ask], axis=2), MIN_TICKS, MAX_TICKS).astype(jnp.int32)
        return Orders(lots=jnp.concatenate([lots[..., 0], -lots[..., 1]], axis=2), limit_ticks=ticks)


class OrderSlots(ActionMap):
    """Orders one by one: for every asset and slot a signed size, a price, and whether to leave what rests there.

    `3 * slots * A` numbers in [-1, 1], by asset, then slot, then entry. Positive prices are eager ones: above the
    reference price of the book for a buy, below it for a sell.

    Entries:
        - `size [A, slots]`, in [-1, 1]: `lots = trunc(size * max_lots)`, buy positive; 0 cancels what rests in the slot
        - `price [A, slots]`, in [-1, 1]: `limit = reference * (1 + sign(lots) * price * reach_bps / 10_000)` ticks
        - `stay [A, slots]`, in [-1, 1]: above 0 the slot is left as it is, otherwise the new order takes its place
    """

    quotes: ClassVar[bool] = True

    slots: int = static(default=2)  # orders per asset
    reach_bps: float = 30.0  # farthest limit from the reference
    max_lots: int = 10  # of one order

    @property
    def n_slots(self) -> int:
        """As many as the agent has."""
        return self.slots

    def validate(self, where: str) -> None:
        """See `ActionMap.validate`."""
        expect_range(f"{where}.slots", self.slots, 1, 100)
        expect_range(f"{where}.reach_bps", self.reach_bps, 0.0, 5_000.0)
        expect_range(f"{where}.max_lots", self.max_lots, 1, 2**30)

    def space(self, n_assets: int) -> Space:
        """`[3 * slots * A]` numbers."""
        return Box(-1.0, 1.0, 3 * self.slots * n_assets)

    def describe(self, action: np.ndarray, n_assets: int) -> list[str]:
        """See `ActionMap.describe`."""
        by_slot = np.clip(np.reshape(action, (n_assets, self.slots, 3)), -1.0, 1.0)
        return [", ".join(self._slot_words(*slot) for slot in slots) for slots in by_slot]

    def _slot_words(self, size: float, price: float, stay: float) -> str:
        lots = int(size * int(self.max_lots))
        if stay > 0 or not lots:
            return "keep" if stay > 0 else "no order"
        return f"{'buy' if lots > 0 else 'sell'} {abs(lots)} at {price * float(self.reach_bps):+.1f} bps"

    def orders(self, action: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """One order per slot."""
        reference = _reference(self, market)[:, None]
        by_slot = action.reshape(action.shape[0], -1, self.slots, 3)
        lots = jnp.trunc(by_slot[..., 0] * self.max_lots).astype(jnp.int32)
        beyond = jnp.sign(lots) * by_slot[..., 1] * (jnp.asarray(self.reach_bps) * jnp.float32(BPS))
        ticks = jnp.clip(jnp.round(reference * (1.0 + beyond)), MIN_TICKS, MAX_TICKS).astype(jnp.int32)
        stays = by_slot[..., 2] > 0.0
        empty = jnp.where(lots == 0, 0, ticks)
        return Orders(lots=jnp.where(stays, 0, lots), limit_ticks=jnp.where(stays, KEEP, empty))


def _fraction_words(fraction: float) -> str:
    size = f"{abs(fraction):.0%}".replace("%", " %")
    return "hold" if fraction == 0 else f"{'buy' if fraction > 0 else 'sell'} {size}"


def _reference(part: ActionMap, market: MarketView) -> jax.Array:
    """Reference price of the book, `[A]` float32 ticks."""
    if market.book is None:
        raise ValueError(f"action {part.kind()!r}: the mechanism shows no book; use it with a call_auction")
    return market.book.price_ticks.astype(jnp.float32)


def trade_fraction(fraction: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
    """Lots of a signed fraction of the room (see `TradeFraction`), `[n, A]` int32.

    Args:
        fraction: `[n, A]` in [-1, 1].
        market: the common view.
        account: the views of the `n` agents.
    """
    gross = total(jnp.abs(account.values(market.mid)), 1)
    room = jnp.maximum(account.limits.leverage() * account.equity - gross, 0.0)[:, None]
    openable = room / market.mid.size / market.mid  # lots
    reduces = fraction * account.positions < 0
    base = jnp.where(reduces, jnp.abs(account.positions).astype(jnp.float32), openable)
    cap = jnp.asarray(account.limits.max_position_lots, jnp.float32)[:, None]
    return jnp.trunc(jnp.clip(fraction * base, -2.0 * cap, 2.0 * cap)).astype(jnp.int32)
