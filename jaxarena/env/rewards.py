"""Reward terms: each is O(1) in scale by construction; a role's reward is their weighted sum.

Belongs here: what an agent is paid for one step. Does not belong here: how equity is marked (`market`).
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp

from jaxarena.core.component import Component
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record
from jaxarena.market.views import EQUITY_FLOOR


class Transition(Record):
    """What happened to `n` accounts between two bars, in float32 quanta unless said otherwise."""

    equity_before: jax.Array  # [n] marked
    equity: jax.Array  # [n] marked
    initial_equity: jax.Array  # [n]
    drawdown_before: jax.Array  # [n] share
    drawdown: jax.Array  # [n] share
    variance: jax.Array  # [n] exponentially weighted variance of log returns per step
    weights: jax.Array  # [n, A] share of equity
    cost: jax.Array  # [n] fees, spread and impact paid

    @property
    def log_return(self) -> jax.Array:
        """`log(equity / equity_before)`, both at least `EQUITY_FLOOR` of the start; `[n]`."""
        floor = EQUITY_FLOOR * self.initial_equity
        return jnp.log(jnp.maximum(self.equity, floor) / jnp.maximum(self.equity_before, floor))


class Reward(Component, family="reward"):
    """One term of a role's reward."""

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
