"""Strategies that hold positions: each names lots to trade now, at whatever price the market gives.

Belongs here: rules on weights and positions. Does not belong here: rules that quote prices (`quoters`).
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp

from jaxarena.agents.base import Strategy
from jaxarena.core.checks import expect_range
from jaxarena.core.draws import uniforms
from jaxarena.core.reduce import mean
from jaxarena.core.tree import static
from jaxarena.core.types import Orders
from jaxarena.market.views import AccountView, MarketView


class _Investor(Strategy):
    """One market order per asset."""

    @abstractmethod
    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Lots to trade now, `[n, A]` int32, buy positive; arguments as of `Strategy.act`."""

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        """See `Strategy.act`."""
        return Orders.market(self.lots(key, market, account))


class Hold(_Investor):
    """Never trade."""

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """No orders."""
        return jnp.zeros_like(account.positions)


class BuyAndHold(_Investor):
    """Put everything into all assets, equally, at the first bar, and never trade again."""

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Orders at the first step only."""
        orders = toward_weights(jnp.full(market.mid.shape, 1.0 / market.mid.size), market, account)
        return jnp.where(market.step == 0, orders, 0)


class EqualWeight(_Investor):
    """Keep the same share of equity in every asset, rebalanced when a weight is off by more than `tolerance`."""

    exposure: float = 1.0  # sum of weights
    tolerance: float = 0.02

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade back to the target weights."""
        target = jnp.full(market.mid.shape, self.exposure / market.mid.size)
        off = jnp.abs(account.weights(market.mid) - target) > self.tolerance
        return jnp.where(off, toward_weights(target, market, account), 0)

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.exposure", self.exposure, 0.0, 100.0)
        expect_range(f"{where}.tolerance", self.tolerance, 0.0, 1.0)


class Random(_Investor):
    """Noise: with odds `trade_probability` per asset and step, move to a uniformly drawn weight."""

    trade_probability: float = 0.1
    max_weight: float = 1.0

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Independent draws for every agent and asset."""
        draws = uniforms(key, (2, *account.positions.shape))
        low = jnp.where(jnp.asarray(account.limits.allow_short), -1.0, 0.0)[:, None]
        target = (low + (1.0 - low) * draws[1]) * self.max_weight / market.mid.size
        return jnp.where(draws[0] < self.trade_probability, toward_weights(target, market, account), 0)

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.trade_probability", self.trade_probability, 0.0, 1.0)
        expect_range(f"{where}.max_weight", self.max_weight, 0.0, 100.0)


class Momentum(_Investor):
    """Hold what has risen over `period` bars; short what has fallen where the account may.

    Weight `exposure / A * clip(return / threshold, -1, 1)`.
    Source: Jegadeesh and Titman (1993); time-series form as in Moskowitz, Ooi and Pedersen (2012).
    """

    period: int = static(default=20)
    exposure: float = 1.0
    threshold: float = 0.05  # return at which the full weight is held
    tolerance: float = 0.02

    @property
    def lookback(self) -> int:
        """`period + 1` bars."""
        return self.period + 1

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade toward the signal when the weight is off by more than `tolerance`."""
        close = market.window.close
        score = jnp.clip((close[-1] / close[-1 - self.period] - 1.0) / self.threshold, -1.0, 1.0)
        return self._follow(score, market, account)

    def _follow(self, score: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        low = jnp.where(jnp.asarray(account.limits.allow_short), -1.0, 0.0)[:, None]
        target = jnp.maximum(score, low) * (self.exposure / market.mid.size)
        off = jnp.abs(account.weights(market.mid) - target) > self.tolerance
        return jnp.where(off, toward_weights(target, market, account), 0)

    def validate(self, where: str) -> None:
        """See `Strategy.validate`."""
        expect_range(f"{where}.period", self.period, 1, 10_000)
        expect_range(f"{where}.exposure", self.exposure, 0.0, 100.0)
        expect_range(f"{where}.threshold", self.threshold, 1e-6, 100.0, "a threshold of zero divides by it")
        expect_range(f"{where}.tolerance", self.tolerance, 0.0, 1.0)


class MeanReversion(Momentum):
    """Buy what stands below its mean of `period` bars, sell what stands above it.

    Weight `exposure / A * clip(-(close / mean - 1) / threshold, -1, 1)`.
    Source: contrarian rule of Lo and MacKinlay (1990), in time-series form.
    """

    def lots(self, key: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
        """Trade against the distance from the mean."""
        close = market.window.close
        average = mean(close[-self.period :])
        score = jnp.clip(-(close[-1] / average - 1.0) / self.threshold, -1.0, 1.0)
        return self._follow(score, market, account)


def toward_weights(weights: jax.Array, market: MarketView, account: AccountView) -> jax.Array:
    """Lots that bring each position to `weights * equity` at today's mid, rounded toward zero.

    Args:
        weights: `[A]` or `[n, A]` signed share of equity.
        market: the common view.
        account: the views of `n` agents.

    Returns:
        `[n, A]` int32 lots.
    """
    wanted = weights * account.safe_equity[:, None] / market.mid
    cap = jnp.asarray(account.limits.max_position_lots, jnp.float32)[:, None]
    return jnp.trunc(jnp.clip(wanted, -cap, cap)).astype(jnp.int32) - account.positions
