"""Reward terms: each is O(1) in scale by construction; a role's reward is their weighted sum.

Belongs here: what an agent is paid for one step. Does not belong here: how equity is marked (`market`).
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxarena.core.component import Component
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record
from jaxarena.market.views import EQUITY_FLOOR


class Transition(Record):
    """What happened to `n` accounts between two bars, in float32 quanta unless said otherwise."""

    equity_before: jax.Array  # [n] marked before the step
    equity: jax.Array  # [n] marked after it
    initial_equity: jax.Array  # [n] at the start of the episode
    drawdown_before: jax.Array  # [n] share of the peak, before the step
    drawdown: jax.Array  # [n] share of the peak, after it
    variance: jax.Array  # [n] exponentially weighted variance of log returns per step
    weights: jax.Array  # [n, A] share of equity
    inventory: jax.Array  # [n, A] position over the largest one allowed
    captured: jax.Array  # [n] what the fills gained against the price after them, or the hidden value
    cost: jax.Array  # [n] fees, spread and impact paid
    value_gain: jax.Array | None = None  # [n] gain with holdings at the hidden value, where there is one

    @property
    def log_return(self) -> jax.Array:
        """`log(equity / equity_before)`, both at least `EQUITY_FLOOR` of the start; `[n]`."""
        floor = EQUITY_FLOOR * self.initial_equity
        return jnp.log(jnp.maximum(self.equity, floor) / jnp.maximum(self.equity_before, floor))


class Reward(Component, family="reward"):
    """One term of a role's reward."""

    #: Whether it needs a hidden value, which only a mechanism that makes its own price has.
    needs_value: ClassVar[bool] = False

    @abstractmethod
    def value(self, transition: Transition) -> jax.Array:
        """The term for each agent, `[n]` float32."""


class LogReturn(Reward):
    """`weight * log(V' / V)`: sums over an episode to the log of its growth."""

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Growth of marked equity."""
        return self.weight * transition.log_return


class Profit(Reward):
    """`weight * (V' - V) / V_0`: linear in the position."""

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Change of marked equity over its start."""
        return self.weight * (transition.equity - transition.equity_before) / transition.initial_equity


class VolatilityPenalty(Reward):
    """`-weight * variance / 2`: risk aversion of a mean-variance investor with log utility at weight 1."""

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Half the recent variance of the agent's own log returns."""
        return -0.5 * self.weight * transition.variance


class DrawdownPenalty(Reward):
    """`-weight * max(drawdown' - drawdown, 0)`: paid when a loss is new."""

    weight: float = 0.1

    def value(self, transition: Transition) -> jax.Array:
        """Increase of the drawdown."""
        return -self.weight * jnp.maximum(transition.drawdown - transition.drawdown_before, 0.0)


class ConcentrationPenalty(Reward):
    """`-weight * sum_a w_a^2`: Herfindahl index of the weights."""

    weight: float = 1e-4

    def value(self, transition: Transition) -> jax.Array:
        """Sum of squared weights."""
        return -self.weight * total(jnp.square(transition.weights), 1)


class CostPenalty(Reward):
    """`-weight * cost / V_0`: charged on top of what equity already lost, to discourage churning."""

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Fees, spread and impact paid in this step."""
        return -self.weight * transition.cost / transition.initial_equity


class ValueProfit(Reward):
    """`weight * (U' - U) / V_0` with `U` cash and holdings at the hidden value: what positions will settle at.

    Linear in the position. No trade can move the value, so agents cannot mark each other up. Holdings count with what
    they are worth to the agent on top of the value, if its role has private values.
    """

    needs_value: ClassVar[bool] = True

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Change of equity at the hidden value over initial equity."""
        assert transition.value_gain is not None  # checked when the market is built
        return self.weight * transition.value_gain / transition.initial_equity


class SpreadCapture(Reward):
    """`weight * (cash received + lots bought * p') / V_0`: what the fills of the step gained at once.

    `p'` is the price after the fills; where the agents make the price it is the hidden value, because everybody
    trades at the price itself. Leaves out what later moves do to the position: a maker's income without its risk.
    """

    weight: float = 1.0

    def value(self, transition: Transition) -> jax.Array:
        """Gain of the fills over initial equity."""
        return self.weight * transition.captured / transition.initial_equity


class InventoryPenalty(Reward):
    """`-weight * sum_a (lots_a / max_position_lots)^2`: what a maker pays for holding a position.

    Source: the running inventory penalty of Cartea, Jaimungal and Penalva (2015), chapter 10.
    """

    weight: float = 1e-4

    def value(self, transition: Transition) -> jax.Array:
        """Sum of squared positions as shares of the largest allowed."""
        return -self.weight * total(jnp.square(transition.inventory), 1)
