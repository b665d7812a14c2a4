"""Exogenous prices: where the outside market goes, whatever the agents do.

A process keeps its own float state and quotes integer ticks; it never reads rounded ticks back.
Belongs here: laws of motion. Does not belong here: replayed data (`history`), impact (`costs`).
"""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.checks import expect_range
from jaxarena.core.component import Component
from jaxarena.core.draws import normals, uniforms
from jaxarena.core.tree import Record, static
from jaxarena.core.types import Bar
from jaxarena.market.costs import PerAsset

ProcessState = Any

#: Quoted prices stay inside these bounds, so that exact money has room; `Process.validate` checks the start.
MIN_TICKS, MAX_TICKS = 1, 2**30


class Liquidity(Record):
    """How deep the outside market is."""

    depth_lots: jax.Array  # [A] float32 reference volume per step, constant within an episode
    volatility: jax.Array  # [A] float32 standard deviation of log returns per step


class Process(Component, family="process"):
    """A law of motion for the prices of `A` assets."""

    @property
    @abstractmethod
    def asset_names(self) -> tuple[str, ...]:
        """Names of the `A` assets."""

    @property
    @abstractmethod
    def tick_size(self) -> float:
        """Units of currency per tick: one over a whole number. Host only."""

    @property
    @abstractmethod
    def steps_per_year(self) -> float | jax.Array:
        """Steps in one year, for annual rates."""

    @abstractmethod
    def init(self, key: jax.Array, horizon: int | jax.Array) -> tuple[ProcessState, Bar]:
        """Draw the world of one episode of `horizon` steps. key: consumed. Cost does not grow with the horizon.

        Returns:
            The state and the bar that agents see first.
        """

    @abstractmethod
    def step(self, key: jax.Array, state: ProcessState) -> tuple[ProcessState, Bar]:
        """Move to the next bar. key: consumed."""

    @abstractmethod
    def liquidity(self, state: ProcessState) -> Liquidity:
        """The depth of the market, known to agents before they order."""

    def signal(self, state: ProcessState) -> jax.Array:
        """Public information on the next return, `[A]` float32; none unless the process announces something."""
        raise ValueError(f"the process {self.kind()!r} announces no signal; remove the observation 'signal'")

    def warm_bars(self) -> Bar | None:
        """All bars, `[T, A]`, from which indicators can be warmed up before an episode; None when there are none."""
        return None

    def without_bars(self) -> "Process":
        """A copy that holds its parameters but not the bars, which all markets share."""
        return self

    def bar_index(self, state: ProcessState) -> jax.Array:
        """The row of `warm_bars` that the state stands on."""
        raise ValueError(f"the process {self.kind()!r} has no recorded bars")

    @abstractmethod
    def validate(self, horizon: int, lookback: int) -> None:
        """Raise ValueError for parameters without economic meaning, or too little data for the horizon. Host only."""


class _LogPriceState(Record):
    """Where a synthetic market stands."""

    log_price: jax.Array  # [A] float32 log of the price in ticks
    signal: jax.Array  # [A] float32 what is announced about the next return


class _Synthetic(Process):
    """Shared by processes that draw their bars: `A` assets called A0, A1, … starting at one price."""

    n_assets: int = static(default=1)
    initial_price: PerAsset = 100.0
    volatility: PerAsset = 0.2  # per square root of a year
    mean_volume: PerAsset = 1_000_000.0  # lots per step
    volume_noise: float = 0.3  # standard deviation of log volume
    periods_per_year: float = 252.0
    ticks_per_unit: int = static(default=10_000)

    @property
    def asset_names(self) -> tuple[str, ...]:
        """See `Process.asset_names`."""
        return tuple(f"A{i}" for i in range(self.n_assets))

    @property
    def tick_size(self) -> float:
        """See `Process.tick_size`."""
        return 1.0 / self.ticks_per_unit

    @property
    def steps_per_year(self) -> float | jax.Array:
        """See `Process.steps_per_year`."""
        return self.periods_per_year

    def liquidity(self, state: _LogPriceState) -> Liquidity:
        """See `Process.liquidity`."""
        return Liquidity(depth_lots=self._full(self.mean_volume), volatility=self._step_volatility())

    def validate(self, horizon: int, lookback: int) -> None:
        """See `Process.validate`."""
        expect_range("process.n_assets", self.n_assets, 1, 10_000)
        limit = MAX_TICKS / 1000 / self.ticks_per_unit
        expect_range("process.initial_price", self.initial_price, 1.0 / self.ticks_per_unit, limit)
        expect_range("process.volatility", self.volatility, 0.0, 10.0)
        expect_range("process.mean_volume", self.mean_volume, 1.0, 1e12)
        expect_range("process.volume_noise", self.volume_noise, 0.0, 3.0)
        expect_range("process.periods_per_year", self.periods_per_year, 1.0, 1e8)

    def _full(self, value: PerAsset) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (self.n_assets,))

    def _step_volatility(self) -> jax.Array:
        return self._full(self.volatility) / jnp.sqrt(jnp.asarray(self.periods_per_year, jnp.float32))

    def _first(self, signal: jax.Array) -> tuple[_LogPriceState, Bar]:
        log_price = jnp.log(self._full(self.initial_price) * self.ticks_per_unit)
        price = _ticks(log_price)
        bar = Bar(open=price, high=price, low=price, close=price, volume=self._full(self.mean_volume))
        return _LogPriceState(log_price=log_price, signal=signal), bar

    def _bar(self, log_open: jax.Array, log_return: jax.Array, draws: jax.Array) -> Bar:
        """Bar of a Brownian path from `log_open` to `log_open + log_return`.

        Given both ends, the highest point of a Brownian path exceeds the open by
        `(r + sqrt(r^2 - 2 sigma^2 log U)) / 2`; the lowest mirrors it. Each has the exact law of the
        continuous path; that the two are not independent given the ends is left out.
        Source: Karatzas and Shreve (1991), Problem 2.8.4.

        Args:
            log_open: `[A]`.
            log_return: `[A]`.
            draws: `[3, A]` uniforms.
        """
        variance = self._step_volatility() ** 2
        reach = jnp.sqrt(log_return**2 - 2.0 * variance * jnp.log(draws[:2]))  # [2, A]
        noise = jnp.asarray(self.volume_noise)
        volume = self._full(self.mean_volume) * jnp.exp(noise * normals(draws[2]) - 0.5 * noise**2)
        first, last = _ticks(log_open), _ticks(log_open + log_return)
        return Bar(
            open=first,
            high=jnp.maximum(_ticks(log_open + 0.5 * (log_return + reach[0])), jnp.maximum(first, last)),
            low=jnp.minimum(_ticks(log_open + 0.5 * (log_return - reach[1])), jnp.minimum(first, last)),
            close=last,
            volume=volume,
        )


class Gbm(_Synthetic):
    """Geometric Brownian motion with one common factor.

    `dS_i / S_i = drift_i dt + volatility_i dW_i`, with `corr(dW_i, dW_j) = loading_i * loading_j`.
    Open equals the last close; high and low are drawn from the path within the bar.
    """

    drift: PerAsset = 0.05  # per year
    market_loading: PerAsset = 0.5  # correlation of each asset with the common factor

    def init(self, key: jax.Array, horizon: int | jax.Array) -> tuple[_LogPriceState, Bar]:
        """See `Process.init`."""
        return self._first(jnp.zeros(self.n_assets, jnp.float32))

    def step(self, key: jax.Array, state: _LogPriceState) -> tuple[_LogPriceState, Bar]:
        """See `Process.step`."""
        draws = uniforms(key, (4 * self.n_assets + 1,))
        common, own, rest = jnp.split(draws, [1, 1 + self.n_assets])
        loading = jnp.asarray(self.market_loading)
        shock = loading * normals(common) + jnp.sqrt(1.0 - loading**2) * normals(own)
        sigma = self._step_volatility()
        log_return = self._full(self.drift) / self.periods_per_year - 0.5 * sigma**2 + sigma * shock
        bar = self._bar(state.log_price, log_return, rest.reshape(3, self.n_assets))
        return state.replace(log_price=_bounded(state.log_price + log_return)), bar

    def validate(self, horizon: int, lookback: int) -> None:
        """See `Process.validate`."""
        super().validate(horizon, lookback)
        expect_range("process.drift", self.drift, -10.0, 10.0)
        expect_range("process.market_loading", self.market_loading, -1.0, 1.0)


class PlantedSignal(_Synthetic):
    """A market that announces part of its next return, so that the best policy is known.

    `close / open - 1 = strength * s + noise`, with the announced signal `s` in {-1, +1}, each with odds
    one half, and noise normal with the process's volatility. Without costs and for a reward linear in
    profit, the best policy holds the largest exposure `w` in the direction of `s` and earns
    `w * strength` per step on average. The yardstick of the learning tests.
    """

    strength: float = 0.005  # announced part of the return per step

    def init(self, key: jax.Array, horizon: int | jax.Array) -> tuple[_LogPriceState, Bar]:
        """See `Process.init`."""
        return self._first(_random_signs(uniforms(key, (self.n_assets,))))

    def step(self, key: jax.Array, state: _LogPriceState) -> tuple[_LogPriceState, Bar]:
        """See `Process.step`."""
        draws = uniforms(key, (5, self.n_assets))
        noise = jnp.clip(normals(draws[0]), -4.0, 4.0) * self._step_volatility()
        log_return = jnp.log1p(self.strength * state.signal + noise)
        bar = self._bar(state.log_price, log_return, draws[2:])
        return _LogPriceState(log_price=_bounded(state.log_price + log_return), signal=_random_signs(draws[1])), bar

    def signal(self, state: _LogPriceState) -> jax.Array:
        """The announced direction of the next return, -1 or +1."""
        return state.signal

    def validate(self, horizon: int, lookback: int) -> None:
        """See `Process.validate`."""
        super().validate(horizon, lookback)
        expect_range("process.strength", self.strength, 0.0, 0.2)
        per_step = np.asarray(self.volatility, np.float64) / np.sqrt(self.periods_per_year)
        expect_range("process.volatility per step", per_step, 0.0, 0.19, "a return must stay above -100 %")


def _random_signs(uniform: jax.Array) -> jax.Array:
    return jnp.where(uniform < 0.5, -1.0, 1.0).astype(jnp.float32)


def _bounded(log_price: jax.Array) -> jax.Array:
    return jnp.clip(log_price, jnp.log(float(MIN_TICKS)), jnp.log(float(MAX_TICKS)))


def _ticks(log_price: jax.Array) -> jax.Array:
    return jnp.round(jnp.exp(_bounded(log_price))).astype(jnp.int32)
