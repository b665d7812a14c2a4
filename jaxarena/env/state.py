"""Parameters and state of one market."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxarena.core.tree import Record, derived, static
from jaxarena.core.types import Bar, Fills, Orders
from jaxarena.env.roles import Role
from jaxarena.market.costs import CostModel, Financing, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.indicators import Indicator, Macd, RealizedVolatility, Rsi, Window
from jaxarena.market.ledger import Ledger
from jaxarena.market.mechanism import Mechanism, MechanismState
from jaxarena.market.processes import Process, ProcessState


class MarketParams(Record):
    """Everything that defines a market: what a YAML file spells out under `market:`.

    `MarketEnv.build` turns it into validated arrays. Floats are traced, so `vmap` over parameters gives a
    population of different markets; what decides a shape is static.
    """

    process: Process
    roles: tuple[Role, ...]
    mechanism: Mechanism = Dealer()
    costs: CostModel = ProportionalFees()
    financing: Financing = Financing()
    indicators: tuple[Indicator, ...] = (Rsi(), Macd(), RealizedVolatility())
    episode_length: int = 252  # steps
    horizon: Literal["continuing", "terminal"] = static(default="continuing")
    lot_multiplier: int | tuple[int, ...] = 1  # quanta per tick and lot, per asset: the contract size
    flow_memory: float = 0.8  # share of the flow observation that survives a step
    risk_memory: float = 0.94  # of each agent's variance of returns, as in RiskMetrics (1996)
    warm_carries: tuple[Any, ...] | None = derived(default=None)  # of the indicators, after each recorded bar

    @property
    def tick_value(self) -> jax.Array:
        """Quanta per tick and lot, `[]` or `[A]` int32."""
        return jnp.asarray(self.lot_multiplier)

    @property
    def quanta_per_unit(self) -> int:
        """Quanta in one unit of currency: a quantum is what one tick of one lot is worth at multiplier 1."""
        return round(1.0 / self.process.tick_size)


class Accounts(Record):
    """What the market remembers of each agent besides its ledger, in float32 quanta."""

    equity: jax.Array  # [N] marked net of the cost of closing alone
    equity_mid: jax.Array  # [N] marked at the mid, for margin
    gross: jax.Array  # [N] exposure at the mid
    initial_equity: jax.Array  # [N]
    peak_equity: jax.Array  # [N]
    variance: jax.Array  # [N] exponentially weighted variance of log returns
    entry_price: jax.Array  # [N, A] average price of the open position, per lot
    alive: jax.Array  # [N] bool


class EpisodeStatistics(Record):
    """Sums since the start of the episode."""

    reward: jax.Array  # [N] float32, zero for scripted agents
    cost: jax.Array  # [N] float32 quanta of fees, spread and impact
    traded: jax.Array  # [N] float32 quanta of value traded


class Private(Record):
    """What only the agents themselves know, by role; None for roles that know nothing of the kind."""

    traits: tuple[jax.Array | None, ...]  # [n, P] float32 uniform in (0, 1), who each agent is in this episode
    signals: tuple[jax.Array | None, ...]  # [n, A] float32 ticks, what each agent believes the asset is worth


class MarketState(Record):
    """State of one market: arrays only, no PRNG key."""

    step: jax.Array  # [] int32 since the start of the episode
    process: ProcessState
    mechanism: MechanismState
    close: jax.Array  # [A] int32 ticks, the last exogenous close
    mid: jax.Array  # [A] float32 quanta per lot, as the agents' flow has moved it
    window: Window  # traded bars
    carries: tuple[Any, ...]  # of each indicator
    features: tuple[jax.Array, ...]  # of each indicator
    flow: jax.Array  # [A] float32 recent net flow over depth
    ledger: Ledger
    accounts: Accounts
    statistics: EpisodeStatistics
    private: Private


class Decision(Record):
    """Orders of all agents, and what had to be done to them."""

    orders: Orders  # [N, A, K]
    called: jax.Array  # [N] bool, whether a margin call replaced the agent's own orders
    actions_clipped: jax.Array  # [N] int32 entries masked or clipped


class Cleared(Record):
    """What the clear stage hands on."""

    mechanism: MechanismState
    fills: Fills
    bar: Bar  # as traded
    mid: jax.Array  # [A] float32 quanta per lot at the moment of the fill, before it
    orders_refused: jax.Array  # [N] int32 not admitted
    orders_trimmed: jax.Array  # [N] int32
