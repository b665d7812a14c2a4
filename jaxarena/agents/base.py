"""What a scripted strategy is."""

from abc import abstractmethod
from typing import ClassVar

import jax

from jaxarena.core.component import Component
from jaxarena.core.types import Orders
from jaxarena.market.views import AccountView, MarketView


class Strategy(Component, family="strategy"):
    """A rule that turns what `n` agents see into orders."""

    #: Whether it sends limit orders, which not every mechanism takes.
    quotes: ClassVar[bool] = False
    #: Uniform numbers that each agent draws at reset and keeps for the episode: `account.traits[:, :n_traits]`.
    n_traits: ClassVar[int] = 0

    @property
    def lookback(self) -> int:
        """Bars of the window that it reads."""
        return 1

    @property
    def n_slots(self) -> int:
        """Order slots per asset that it uses."""
        return 1

    @abstractmethod
    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """Orders to send now, `[n, A, n_slots]`.

        Args:
            key: consumed.
            market: the common view at bar t.
            account: the views of the `n` agents that follow this strategy.
        """

    def validate(self, where: str) -> None:
        """Raise ValueError for parameters without meaning. Host only."""


class Learned(Strategy):
    """Orders come from a policy outside: the role takes part in `action` and `obs`."""

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """Learned roles have no rule."""
        raise TypeError("a learned role acts through the action given to env.step, not through a strategy")
