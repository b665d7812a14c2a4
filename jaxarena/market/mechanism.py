"""How orders become fills: the contract every market type shares.

An experiment changes its market type by naming another mechanism. Belongs here: the contract.
Does not belong here: any one mechanism (`dealer`), accounts (`ledger`), pre-trade checks (`margin`).
"""

from abc import abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.component import Component
from jaxarena.core.types import Bar, BookView, Fills, Orders, OwnOrders, Quote

MechanismState = Any


class Mechanism(Component, family="mechanism"):
    """Matches the orders of all agents of one market in one step.

    Prices come from outside (a process quotes them and the mechanism trades around the quote), or the agents make
    them. In the second case the process is the value of the asset, which nobody sees: roles may get noisy signals of
    it, and positions settle at it in the end.
    """

    #: Whether the agents make the price, and the process is a hidden value.
    makes_price: ClassVar[bool] = False

    @abstractmethod
    def init(self, opening_ticks: jax.Array, n_agents: int, n_slots: int) -> MechanismState:
        """State at the start of an episode: arrays only.

        Args:
            opening_ticks: `[A]` int32 ticks, the first price.
            n_agents: `N`.
            n_slots: `K`, order slots per agent and asset.
        """

    def admit(self, state: MechanismState, orders: Orders, quote: Quote) -> tuple[MechanismState, Orders, jax.Array]:
        """What of the orders enters the market, together with what rests there, before pre-trade checks.

        Returns:
            The state, all orders that will meet (`[N, A, K]`), and how many were refused, `[N]` int32.
        """
        return state, orders, jnp.zeros(orders.lots.shape[0], jnp.int32)

    @abstractmethod
    def clear(
        self, key: jax.Array, state: MechanismState, orders: Orders, quote: Quote, tick_value: jax.Array
    ) -> tuple[MechanismState, Fills, Bar]:
        """Turn orders into fills.

        What comes from floating point and is read by several stages must be evaluated once (`core.once`).

        Args:
            key: consumed.
            state: from `admit`.
            orders: `[N, A, K]`, admitted and trimmed.
            quote: the outside market in the bar of the fill.
            tick_value: `[A]` int32 quanta per tick and lot.

        Returns:
            The next state, the fills, and the bar that agents will see.
        """

    @abstractmethod
    def price_range(self, state: MechanismState, orders: Orders, quote: Quote) -> tuple[jax.Array, ...]:
        """The prices between which orders fill, whatever pre-trade checks trim from them.

        Args:
            state: from `admit`.
            orders: `[N, A, K]`, admitted.
            quote: the outside market in the bar of the fill.

        Returns:
            Least that a seller gets, mid at the moment of the fill, most that a buyer pays; float32 ticks, the mid
            `[A]`, the others `[A]` or `[N, A]`.
        """

    @abstractmethod
    def mid(self, state: MechanismState, quote: Quote) -> jax.Array:
        """Mid price at the close of the quote's bar as agents' flow has moved it, `[A]` float32 ticks."""

    @abstractmethod
    def closing_prices(self, state: MechanismState, lots: jax.Array, quote: Quote) -> jax.Array:
        """Average price at which a position would close now, alone, its own impact and spread included.

        Args:
            state: from `init` or the last `clear`.
            lots: `[..., A]` int32 positions.
            quote: its bar's close is the price now.

        Returns:
            `[..., A]` float32 ticks.
        """

    def settlement_ticks(self, state: MechanismState, quote: Quote) -> jax.Array:
        """The whole-tick price that the exact part of a valuation stands on, `[A]` int32."""
        return quote.bar.close

    def book(self, state: MechanismState) -> BookView | None:
        """What everybody sees of the last auction; None where there is none."""
        return None

    def own(self, state: MechanismState) -> OwnOrders | None:
        """What each agent sees of its own orders; None where they do not last."""
        return None

    def validate(self) -> None:
        """Raise ValueError for parameters without economic meaning. Host only."""

    def validate_orders(self, n_agents: int, n_slots: int, max_position_lots: int) -> None:
        """Raise ValueError where orders of this number or size cannot be matched exactly. Host only."""
