"""Roles: who takes part in a market, what they may do, see and want."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.agents import Learned, Strategy
from jaxarena.core.checks import expect_range
from jaxarena.core.draws import normals, uniforms
from jaxarena.core.tree import Record, static
from jaxarena.env.actions import ActionMap, TargetWeights
from jaxarena.env.observations import BarReturns, Indicators, MarketFlow, Observation, Portfolio
from jaxarena.env.rewards import LogReturn, Reward
from jaxarena.market.costs import BPS
from jaxarena.market.margin import RiskLimits


class Role(Record):
    """A group of agents that share everything but their accounts."""

    name: str = static()
    count: int = static(default=1)
    strategy: Strategy = Learned()
    cash: float = 1_000_000.0  # units of currency at the start
    lots: int | tuple[int, ...] = 0  # holdings at the start, per asset
    limits: RiskLimits = RiskLimits()
    action: ActionMap = TargetWeights()
    observations: tuple[Observation, ...] = (BarReturns(), Indicators(), MarketFlow(), Portfolio())
    rewards: tuple[Reward, ...] = (LogReturn(),)
    signal_noise_bps: float | None = None  # of a private signal of the hidden value; None: the role gets none
    private_value_bps: float | None = None  # standard deviation over agents of what a lot is worth to each on top

    @property
    def learned(self) -> bool:
        """Whether a policy outside decides."""
        return isinstance(self.strategy, Learned)

    @property
    def lookback(self) -> int:
        """Bars of the window that the role reads."""
        blocks = self.observations if self.learned else ()
        return max([self.strategy.lookback] + [block.lookback for block in blocks])

    @property
    def n_traits(self) -> int:
        """Uniform numbers drawn for each agent at reset: the strategy's own, then one for the private value."""
        return self.strategy.n_traits + (self.private_value_bps is not None)

    def draw_traits(self, key: jax.Array) -> jax.Array | None:
        """Those numbers, `[n, P]` float32 uniform in (0, 1); None for a role without. key: consumed."""
        return uniforms(key, (self.count, self.n_traits)) if self.n_traits else None

    def draw_signal(self, key: jax.Array, value_ticks: jax.Array) -> jax.Array | None:
        """What each agent believes an asset worth `value_ticks [A]` is worth, `[n, A]`; None without. key: consumed."""
        if self.signal_noise_bps is None:
            return None
        noise = normals(uniforms(key, (self.count, value_ticks.size))) * (self.signal_noise_bps * jnp.float32(BPS))
        return value_ticks * (1.0 + noise)

    def private_value(self, traits: jax.Array | None) -> jax.Array | None:
        """What a lot is worth to each agent on top of its value, as a share of it, `[n]` float32; None without."""
        if traits is None or self.private_value_bps is None:
            return None
        return normals(traits[:, -1]) * (self.private_value_bps * jnp.float32(BPS))

    def validate(self) -> None:
        """Raise ValueError for a role that cannot take part. Host only."""
        where = f"roles.{self.name}"
        if not self.name.isidentifier():
            raise ValueError(f"{where}: a role's name must be letters, digits and underscores, got {self.name!r}")
        expect_range(f"{where}.count", self.count, 1, 100_000)
        expect_range(f"{where}.cash", self.cash, 0.0, 1e12)
        expect_range(f"{where}.lots", self.lots, 0, 2**30, "an agent cannot start with borrowed lots")
        if self.cash == 0.0 and not np.any(self.lots):
            raise ValueError(f"{where}.cash: an agent without cash or lots has nothing to trade with; give it some")
        if self.signal_noise_bps is not None:
            expect_range(f"{where}.signal_noise_bps", self.signal_noise_bps, 0.0, 5_000.0)
        if self.private_value_bps is not None:
            expect_range(f"{where}.private_value_bps", self.private_value_bps, 0.0, 5_000.0)
        self.limits.validate(f"{where}.limits")
        self.action.validate(f"{where}.action")
        self.strategy.validate(f"{where}.strategy")
        for block in self.observations:
            block.validate(f"{where}.observations.{block.kind()}")
        families = {"action": (self.action,), "observations": self.observations, "rewards": self.rewards}
        for family, parts in families.items():
            for part in parts:
                for path, number in jax.tree_util.tree_leaves_with_path(part):
                    name = f"{where}.{family}.{part.kind()}{jax.tree_util.keystr(path)}"
                    expect_range(name, number, -1e9, 1e9)
        if self.learned and not (self.observations and self.rewards):
            raise ValueError(f"{where}: a learned role needs at least one observation block and one reward term")
