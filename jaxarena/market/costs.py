"""What trading and holding cost: fees, market impact, financing.

Belongs here: rates and how they turn into amounts. Does not belong here: moving the money
(`ledger`), when orders meet prices (`mechanism`).
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range
from jaxarena.core.component import Component
from jaxarena.core.money import Money
from jaxarena.core.tree import Record

PerAsset = float | tuple[float, ...] | jax.Array
BPS = 1e-4


class CostModel(Component, family="cost"):
    """Fees of the exchange on each fill."""

    @abstractmethod
    def fee(self, notional: Money, lots: jax.Array, maker_lots: jax.Array, quanta_per_unit: int | jax.Array) -> Money:
        """Fee of each fill.

        Args:
            notional: `[N, A]` absolute cash that changed hands.
            lots: `[N, A]` int32 lots that changed hands, bought plus sold.
            maker_lots: `[N, A]` int32 those of them that provided liquidity.
            quanta_per_unit: int32, quanta in one unit of currency.

        Returns:
            `[N, A]` quanta, never negative; zero where nothing traded.
        """

    @abstractmethod
    def bound(self) -> tuple[jax.Array, jax.Array]:
        """Rates that no fee exceeds: a fraction of the notional, `[]` or `[A]`, and units of currency per fill."""

    def validate(self) -> None:
        """Raise ValueError for parameters without economic meaning. Host only."""


class ProportionalFees(CostModel):
    """`fee = ceil(|notional| * fee_bps / 10_000) + fixed_fee` for every fill that is not empty."""

    fee_bps: PerAsset = 1.0
    fixed_fee: float = 0.0  # units of currency per fill

    def fee(self, notional: Money, lots: jax.Array, maker_lots: jax.Array, quanta_per_unit: int | jax.Array) -> Money:
        """See `CostModel.fee`."""
        fixed = Money.of_float(jnp.asarray(self.fixed_fee), quanta_per_unit)
        return (notional.scale_up(jnp.asarray(self.fee_bps) * jnp.float32(BPS)) + fixed).masked(lots != 0)

    def bound(self) -> tuple[jax.Array, jax.Array]:
        """See `CostModel.bound`."""
        return jnp.asarray(self.fee_bps) * jnp.float32(BPS), jnp.asarray(self.fixed_fee)

    def validate(self) -> None:
        """See `CostModel.validate`."""
        expect_range("costs.fee_bps", self.fee_bps, 0.0, 1_000.0)
        expect_range("costs.fixed_fee", self.fixed_fee, 0.0, 1e6)


class MakerTakerFees(CostModel):
    """`fee = ceil(|notional| * rate / 10_000)`, the rate by which lots provided liquidity and which took it.

    `rate = (maker_bps * maker lots + taker_bps * taker lots) / lots`. Rebates are left out: no rate is negative.
    """

    maker_bps: PerAsset = 0.0
    taker_bps: PerAsset = 1.0

    def fee(self, notional: Money, lots: jax.Array, maker_lots: jax.Array, quanta_per_unit: int | jax.Array) -> Money:
        """See `CostModel.fee`."""
        maker, taker = jnp.asarray(self.maker_bps), jnp.asarray(self.taker_bps)
        share = maker_lots / jnp.maximum(lots, 1)
        rate = taker + share * (maker - taker)
        return notional.scale_up(jnp.maximum(rate, 0.0) * jnp.float32(BPS)).masked(lots != 0)

    def bound(self) -> tuple[jax.Array, jax.Array]:
        """See `CostModel.bound`."""
        return jnp.maximum(jnp.asarray(self.maker_bps), jnp.asarray(self.taker_bps)) * jnp.float32(BPS), jnp.zeros(())

    def validate(self) -> None:
        """See `CostModel.validate`."""
        expect_range("costs.maker_bps", self.maker_bps, 0.0, 1_000.0)
        expect_range("costs.taker_bps", self.taker_bps, 0.0, 1_000.0)


class Impact(Component, family="impact"):
    """How net order flow moves the price, as fractions of it.

    With `x` the net flow of *all* agents divided by the market's depth:
    permanent `P = permanent * cumulative x`, transient `D <- decay * (D + transient * x)`, and a
    temporary move of the fill alone. A fill pays `P + D + (permanent + transient) * x / 2 + temporary(x)`:
    half of the lasting move that it causes, so no round trip at a flat price earns from impact.
    Permanent and transient impact must be linear, with a constant depth, for that to hold.
    Source: Huberman and Stanzl (2004), Gatheral (2010).
    """

    permanent: PerAsset = 0.0  # move per unit of participation that never fades
    transient: PerAsset = 0.0  # move per unit of participation that decays
    decay: PerAsset = 0.7  # share of the transient move that survives one step

    @abstractmethod
    def temporary(self, participation: jax.Array, volatility: jax.Array) -> jax.Array:
        """The move that only this fill pays; odd and increasing in `participation`, `[..., A]` float32."""

    def fill_move(self, participation: jax.Array, volatility: jax.Array) -> jax.Array:
        """How far a fill of this size stands from the price before it, `[..., A]` float32."""
        lasting = jnp.asarray(self.permanent) + jnp.asarray(self.transient)
        return 0.5 * lasting * participation + self.temporary(participation, volatility)

    def validate(self) -> None:
        """Raise ValueError for parameters without economic meaning. Host only."""
        expect_range("impact.permanent", self.permanent, 0.0, 10.0)
        expect_range("impact.transient", self.transient, 0.0, 10.0)
        expect_range("impact.decay", self.decay, 0.0, 1.0, "decay is the share that survives a step")


class LinearImpact(Impact):
    """Linear impact; a participation of 1 (the whole reference volume) moves the price by the given fractions."""

    linear_temporary: PerAsset = 0.0

    def temporary(self, participation: jax.Array, volatility: jax.Array) -> jax.Array:
        """`linear_temporary * x`."""
        return jnp.asarray(self.linear_temporary) * participation

    def validate(self) -> None:
        """See `Impact.validate`."""
        super().validate()
        expect_range("impact.linear_temporary", self.linear_temporary, 0.0, 10.0)


class SquareRootImpact(Impact):
    """Temporary move `coefficient * volatility * sign(x) * sqrt(|x|)` on top of the linear lasting ones.

    Source: Almgren, Thum, Hauptmann and Li (2005); Tóth et al. (2011).
    """

    coefficient: PerAsset = 0.5

    def temporary(self, participation: jax.Array, volatility: jax.Array) -> jax.Array:
        """Square root of the participation, scaled by volatility."""
        root = jnp.sign(participation) * jnp.sqrt(jnp.abs(participation))
        return jnp.asarray(self.coefficient) * volatility * root

    def validate(self) -> None:
        """See `Impact.validate`."""
        super().validate()
        expect_range("impact.coefficient", self.coefficient, 0.0, 10.0)


class Financing(Record):
    """Interest on borrowed cash, on deposits and on borrowed shares, simple and charged every step."""

    borrow_rate: float = 0.04  # per year, on negative cash
    deposit_rate: float = 0.0  # per year, on positive cash
    short_fee: float = 0.01  # per year, on the value of short positions

    def charge(self, cash: Money, short_value: Money, dt_years: jax.Array) -> Money:
        """What each agent owes the lender for one step; negative where the lender pays interest.

        Args:
            cash: `[N]` balances after trading.
            short_value: `[N]` value of short positions.
            dt_years: length of a step.
        """
        rate = jnp.where(cash.hi < 0, self.borrow_rate, self.deposit_rate) * dt_years
        return (-cash).scale_up(rate) + short_value.scale_up(self.short_fee * dt_years)

    def validate(self) -> None:
        """Raise ValueError for rates without economic meaning. Host only."""
        for name in ("borrow_rate", "deposit_rate", "short_fee"):
            expect_range(f"financing.{name}", getattr(self, name), 0.0, 10.0, "rates are fractions per year")
