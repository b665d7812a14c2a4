"""Risk limits: what an account may carry, and what happens when it carries too much.

Three rules, all on equity at the mid: an order may not take gross exposure above `leverage * equity`
(initial margin); an account whose equity falls below `maintenance_margin * exposure` has the excess
closed for it in the next bar; one that is ruined has everything closed. Belongs here: limits in
float32. Does not belong here: the transfers that follow (`ledger`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range
from jaxarena.core.once import once
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record

#: Share of equity kept back when buys are trimmed, so that float32 rounding never overdraws an account.
RESERVE = 4e-6


class RiskLimits(Record):
    """Limits of an account. As a field of a role: numbers; inside the step: `[N]` arrays over all agents."""

    max_leverage: float = 1.0  # gross exposure / equity that orders may reach
    allow_short: bool = False
    initial_margin: float = 0.5  # equity / exposure needed to open
    maintenance_margin: float = 0.25  # equity / exposure below which positions are closed by force
    liquidation_penalty_bps: float = 50.0  # of the value that is closed by force
    ruin_fraction: float = 0.01  # of initial equity; at or below it the agent is bankrupt
    max_position_lots: int = 10_000_000  # per asset

    def leverage(self) -> jax.Array:
        """Gross exposure per unit of equity that orders may reach."""
        return jnp.minimum(self.max_leverage, 1.0 / jnp.asarray(self.initial_margin))

    def validate(self, where: str) -> None:
        """Raise ValueError for limits that contradict each other. Host only."""
        expect_range(f"{where}.max_leverage", self.max_leverage, 0.0, 100.0)
        expect_range(f"{where}.initial_margin", self.initial_margin, 0.01, 1.0)
        expect_range(
            f"{where}.maintenance_margin",
            self.maintenance_margin,
            0.0,
            float(self.initial_margin),
            "maintenance margin cannot exceed initial margin: a new position would be closed at once",
        )
        expect_range(f"{where}.liquidation_penalty_bps", self.liquidation_penalty_bps, 0.0, 5_000.0)
        expect_range(f"{where}.ruin_fraction", self.ruin_fraction, 0.0, 0.9)
        expect_range(f"{where}.max_position_lots", self.max_position_lots, 1, 2**30)


class Exposure(Record):
    """What the pre-trade check knows of the accounts of one market, in float32 quanta."""

    equity: jax.Array  # [N] at the mid of the fill
    mid: jax.Array  # [A] value of one lot
    highest: jax.Array  # [A] or [N, A] most that a buyer may pay for one lot
    lowest: jax.Array  # [A] or [N, A] least that a seller may get for one lot
    fee_rate: jax.Array  # [A] bound on the fee as a fraction of the value traded
    fixed_fee: jax.Array  # [] bound on the fee of any fill on top
    positions: jax.Array  # [N, A] int32 lots


def trim(lots: jax.Array, exposure: Exposure, limits: RiskLimits) -> jax.Array:
    """Cut orders to what each account can carry at the worst price of this step.

    What reduces a position always passes. What adds to one is scaled by one factor for all assets
    of the account, so that afterwards `gross exposure <= leverage * equity`. At a leverage of 1 or
    less this is the same as never paying with money one does not have.

    Args:
        lots: `[N, A]` int32 wanted.
        exposure: the accounts and prices of this step.
        limits: `[N]` leaves.

    Returns:
        `[N, A]` int32 lots, nowhere larger than wanted.
    """
    side = _Side.of(lots, exposure, limits)
    return side.at(_share(side, exposure, limits))


def trim_slots(lots: jax.Array, exposure: Exposure, limits: RiskLimits) -> jax.Array:
    """`trim` for agents that may both bid and offer, of which one side at most can fill in an asset.

    Each asset counts with the worse of its two sides. Within a side, earlier slots keep their lots first.

    Args:
        lots: `[N, A, K]` int32 wanted.
        exposure: as for `trim`.
        limits: `[N]` leaves.

    Returns:
        `[N, A, K]` int32 lots, nowhere larger than wanted.
    """
    if lots.shape[2] == 1:
        return trim(lots[..., 0], exposure, limits)[..., None]
    buys, sells = jnp.maximum(lots, 0), jnp.minimum(lots, 0)
    buy, sell = (_Side.of(total(lots, 2), exposure, limits) for lots in (buys, sells))
    worse = buy.replace(**{name: jnp.maximum(getattr(buy, name), getattr(sell, name)) for name in _Side.AMOUNTS})
    share = once(_share(worse, exposure, limits))
    return _first_slots(buys, buy.at(share)) - _first_slots(-sells, -sell.at(share))


class _Side(Record):
    """Orders on one side of each asset, cut to position limits, and what they would take."""

    AMOUNTS: ClassVar[tuple[str, ...]] = ("kept", "lost", "need")

    reducing: jax.Array  # [N, A] int32 lots that bring the position closer to zero
    adding: jax.Array  # [N, A] int32 the other lots
    kept: jax.Array  # [N, A] float32 quanta of exposure that stays
    lost: jax.Array  # [N, A] float32 quanta that reducing costs
    need: jax.Array  # [N, A] float32 quanta of room that adding takes

    @classmethod
    def of(cls, lots: jax.Array, exposure: Exposure, limits: RiskLimits) -> "_Side":
        """Of `[N, A]` lots."""
        position, cap = exposure.positions, jnp.asarray(limits.max_position_lots)[:, None]
        floor = jnp.where(jnp.asarray(limits.allow_short)[:, None], -cap, jnp.minimum(position, 0))
        lots = jnp.clip(lots, floor - position, jnp.maximum(cap - position, 0))
        reducing = jnp.clip(lots, -jnp.maximum(position, 0), jnp.maximum(-position, 0))
        adding = lots - reducing
        spread = jnp.where(lots > 0, exposure.highest - exposure.mid, exposure.mid - exposure.lowest)
        cost_per_lot = jnp.maximum(spread, 0.0) + exposure.highest * exposure.fee_rate
        fixed = (lots != 0) * (exposure.fixed_fee + 2.0)  # two quanta for rounding
        return cls(
            reducing=reducing,
            adding=adding,
            kept=jnp.abs(position + reducing) * exposure.mid,
            lost=jnp.abs(reducing) * cost_per_lot + fixed,
            need=jnp.abs(adding) * (exposure.mid + limits.leverage()[:, None] * cost_per_lot),
        )

    def at(self, share: jax.Array) -> jax.Array:
        """Lots when only a share of what adds is let through, `[N, A]` int32."""
        scaled = jnp.trunc(self.adding * share[:, None]).astype(jnp.int32)
        return self.reducing + jnp.where((share >= 1.0)[:, None], self.adding, scaled)


def _share(side: _Side, exposure: Exposure, limits: RiskLimits) -> jax.Array:
    """Share of what adds to positions that the account can carry, `[N]` in [0, 1]."""
    leverage = limits.leverage()
    budget = leverage * (exposure.equity * (1.0 - RESERVE) - total(side.lost, 1)) - total(side.kept, 1)
    return jnp.clip(budget / jnp.maximum(total(side.need, 1), 1.0), 0.0, 1.0)


def _first_slots(wanted: jax.Array, allowed: jax.Array) -> jax.Array:
    """Lots of each slot, `[N, A, K]`, when all slots together may have `allowed`, `[N, A]`, the first ones first."""
    slots = []
    for k in range(wanted.shape[2]):
        slots.append(jnp.minimum(wanted[..., k], allowed))
        allowed = allowed - slots[-1]
    return jnp.stack(slots, axis=2)


def forced_lots(
    positions: jax.Array, equity: jax.Array, gross: jax.Array, initial_equity: jax.Array, limits: RiskLimits
) -> tuple[jax.Array, jax.Array]:
    """Orders that a margin call puts in the agent's place.

    Args:
        positions: `[N, A]` int32 lots.
        equity: `[N]` float32 quanta.
        gross: `[N]` float32 quanta of exposure.
        initial_equity: `[N]` float32 quanta at the start of the episode.
        limits: `[N]` leaves.

    Returns:
        Whether each agent is called, `[N]` bool, and the lots that bring its exposure back to what
        it may open, `[N, A]` int32; all of them when it is ruined.
    """
    ruined = equity <= limits.ruin_fraction * initial_equity
    called = (gross > 0.0) & (ruined | (equity < limits.maintenance_margin * gross))
    excess = jnp.where(ruined, 1.0, 1.0 - limits.leverage() * equity / jnp.maximum(gross, 1.0))
    size = jnp.ceil(jnp.abs(positions) * jnp.clip(excess, 0.0, 1.0)[:, None]).astype(jnp.int32)
    return called, -jnp.sign(positions) * jnp.minimum(size, jnp.abs(positions))
