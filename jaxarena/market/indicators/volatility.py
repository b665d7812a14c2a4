# ruff: noqa: D102 - members share the docstrings of `Indicator`
"""How much prices move."""

import jax
import jax.numpy as jnp

from jaxarena.core.reduce import mean
from jaxarena.core.tree import static
from jaxarena.market.indicators.arithmetic import log_percent, wilder_rate
from jaxarena.market.indicators.base import Indicator
from jaxarena.market.indicators.window import Window, newest


class Atr(Indicator):
    """The average true range, in ticks: a Wilder average of `max(high, last close) - min(low, last close)`.

    Seeded by the simple average of the first `period` ranges that have a last close; the average is the
    carry, [A]. Feature: the logarithm of the average in percent of the close (1 % is 0, 5 % is 1.6).
    Source: Wilder (1978).
    """

    outputs = ("atr",)

    period: int = static(default=14)

    @property
    def lookback(self) -> int:
        return 2

    @property
    def warmup(self) -> int:
        return self.period + 1

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros(n_assets, jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        before = newest(window.close, 2)[0]
        true_range = jnp.maximum(window.high[-1], before) - jnp.minimum(window.low[-1], before)
        carry = carry + wilder_rate(window.count - 1, self.period) * (true_range - carry)
        return carry, carry[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return log_percent(values / jnp.maximum(window.close[-1:], 1.0))


class RealizedVolatility(Indicator):
    """Volatility per bar: the root mean square of the last `period` log returns, mean not removed.

    Multiply by `sqrt(bars per year)` for the annual figure. The carry, [period, A], holds the squared
    returns, so that each logarithm is taken once. Feature: the logarithm of the volatility in percent
    (1 % per bar is 0, 5 % is 1.6). Source: Andersen and Bollerslev (1998).
    """

    outputs = ("realized_volatility",)

    period: int = static(default=20)

    @property
    def lookback(self) -> int:
        return 2

    @property
    def warmup(self) -> int:
        return self.period + 1

    def init(self, n_assets: int) -> jax.Array:
        return jnp.zeros((self.period, n_assets), jnp.float32)

    def update(self, carry: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        before = jnp.maximum(newest(window.close, 2)[:1], 1.0)
        log_return = jnp.log1p(jnp.maximum(window.changes(1) / before, -1.0 + 1e-7))
        carry = jnp.concatenate([carry[1:], jnp.square(log_return)])
        return carry, jnp.sqrt(mean(carry))[None]

    def _scaled(self, values: jax.Array, window: Window) -> jax.Array:
        return log_percent(values)
