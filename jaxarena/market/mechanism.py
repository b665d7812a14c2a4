"""How orders become fills: the contract every market type shares.

An experiment changes its market type by naming another mechanism. Belongs here: the contract.
Does not belong here: any one mechanism (`dealer`), accounts (`ledger`), pre-trade checks (`margin`).
"""

from abc import abstractmethod
from typing import Any

import jax

from jaxarena.core.component import Component
from jaxarena.core.types import Bar, Fills, Orders, Quote

MechanismState = Any


class Mechanism(Component, family="mechanism"):
    """Matches the orders of all agents of one market in one step."""

    @abstractmethod
    def init(self, n_assets: int) -> MechanismState:
        """State at the start of an episode: arrays only."""

    @abstractmethod
    def clear(
        self, key: jax.Array, state: MechanismState, orders: Orders, quote: Quote, tick_value: jax.Array
    ) -> tuple[MechanismState, Fills, Bar]:
        """Turn orders into fills.

        Args:
            key: consumed.
            state: from `init` or the last `clear`.
            orders: `[N, A, K]`.
            quote: the outside market in the bar of the fill.
            tick_value: `[A]` int32 quanta per tick and lot.

        Returns:
            The next state, the fills, and the bar that agents will see.
        """

    @abstractmethod
    def price_range(self, state: MechanismState, lots: jax.Array, quote: Quote) -> tuple[jax.Array, ...]:
        """The prices between which orders `lots` fill, whatever pre-trade checks trim from them.

        Args:
            state: from `init` or the last `clear`.
            lots: `[N, A]` int32 signed lots.
            quote: the outside market in the bar of the fill.

        Returns:
            Least that a seller gets, mid at the moment of the fill, most that a buyer pays; `[A]` float32 ticks.
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

    def validate(self) -> None:
        """Raise ValueError for parameters without economic meaning. Host only."""
