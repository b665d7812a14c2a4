"""Judging policies: trained roles, and scripted strategies in their place, on years that nobody learned from.

Every cast plays the same markets: one episode over the whole split (a synthetic market plays its own length), the
other roles unchanged. A baseline takes the place of every learned role at once, and is reported by the agents of one
of them, whose money and limits it has. Belongs here: playing, and turning what happened into numbers. Does not belong
here: the formulas (`metrics`), pictures and files (`results`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.agents import Strategy
from jaxarena.core.batching import vmap_last
from jaxarena.core.tree import as_arrays
from jaxarena.core.types import Orders
from jaxarena.env.actions import TradeFraction
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio, TimeLeft
from jaxarena.env.roles import Role
from jaxarena.env.settlement import closed_out
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.experiment.auctions import Auctions, judge, market_means, mean_estimate, record_ends, record_step
from jaxarena.experiment.config import ExperimentConfig
from jaxarena.experiment.markets import World, load_world
from jaxarena.experiment.metrics import Estimate, summarise
from jaxarena.experiment.quality import Bootstrap
from jaxarena.experiment.recording import Recording, RecordingEnv, first_market, recording_of
from jaxarena.learn.rollout import Act, Transition, collect
from jaxarena.market.margin import RiskLimits
from jaxarena.market.views import AccountView, MarketView

#: A learned role that never trades: it keeps a market open when all others are bankrupt, or when nobody learns.
_SPECTATOR = "spectator"


class Learner(Protocol):
    """Whoever made the policies and can act with them (`jaxarena.learn.ppo.PPO`)."""

    def policy(self, policies: Mapping[str, Any], deterministic: bool = False) -> Act:
        """The groups' joint policy as a pure function; see `PPO.policy`."""


@dataclasses.dataclass(frozen=True)
class Curves:
    """What became of `M` accounts over `T` steps, in units of currency."""

    equity: np.ndarray  # [M, T+1] marked net of the cost of closing alone
    traded: np.ndarray  # [M, T] bought plus sold
    closed_out: np.ndarray  # [M] after everybody's positions were closed together at the end
    market: np.ndarray  # [M] int, number of the account's market


@dataclasses.dataclass(frozen=True)
class Sample:
    """One market, step by step."""

    asset_names: tuple[str, ...]
    price: np.ndarray  # [T, A] units of currency per lot, as the agents' flow has moved it
    weights: dict[str, np.ndarray]  # role to [T, A + 1] shares of its agents' equity, cash first
    flow: dict[str, np.ndarray]  # role to [T, A] lots bought minus sold


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How roles and baselines fared on one split."""

    split: str
    roles: dict[str, Curves]  # learned
    scripted: dict[str, Curves]  # the other roles of the same markets
    baselines: dict[str, Curves]
    baseline_role: str  # whose money and limits baselines have
    sample: Sample
    recording: Recording  # of the same market
    dates: np.ndarray | None  # [T+1]
    periods_per_year: float
    markets: int
    draws: int
    auctions: tuple[Auctions, ...] = ()  # of each asset, where the agents make the price

    def metrics(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """`roles`, `scripted` and `baselines`, each name to metrics."""
        parts = {"roles": self.roles, "scripted": self.scripted, "baselines": self.baselines}
        return {
            part: {name: self._metrics(of_name) for name, of_name in curves.items()} for part, curves in parts.items()
        }

    def _metrics(self, curves: Curves) -> dict[str, Estimate]:
        found = summarise(
            curves.equity,
            curves.traded,
            periods_per_year=self.periods_per_year,
            clusters=curves.market,
            draws=self.draws,
        )
        years = curves.traded.shape[1] / self.periods_per_year
        growth = np.maximum(curves.closed_out / curves.equity[:, 0], 0.0) ** (1.0 / years) - 1.0
        bps = mean_estimate(market_means(_gains_bps(curves), curves.market), Bootstrap(draws=self.draws))
        return found | {"closed_out": Estimate(float(growth.mean())), "profit_bps": bps}

    def comparisons(self) -> dict[str, Estimate]:
        """Closed-out gain of each learned role minus that of each scripted one, in bps of initial equity.

        Both played in the same markets, so the difference is taken market by market; the interval resamples markets.
        """
        bootstrap = Bootstrap(draws=self.draws)
        gains = {
            name: market_means(_gains_bps(curves), curves.market)
            for name, curves in (self.roles | self.scripted).items()
        }
        return {
            f"{learned} - {scripted}": mean_estimate(gains[learned] - gains[scripted], bootstrap)
            for learned in self.roles
            for scripted in self.scripted
        }

    def against_baselines(self) -> dict[str, dict[str, Estimate]]:
        """Closed-out gain of each learned role minus that of each baseline, in bps of initial equity.

        By role, then baseline. Baselines have one seed, so the seeds of a role are averaged market by market; the
        interval resamples markets.
        """
        bootstrap = Bootstrap(draws=self.draws)
        baselines = {name: market_means(_gains_bps(curves), curves.market) for name, curves in self.baselines.items()}
        found: dict[str, dict[str, Estimate]] = {}
        for role, curves in self.roles.items():
            gains = market_means(_gains_bps(curves), curves.market)  # [S * E], of one seed after the other
            found[role] = {
                name: mean_estimate(gains.reshape(-1, of_baseline.size).mean(axis=0) - of_baseline, bootstrap)
                for name, of_baseline in baselines.items()
            }
        return found


def _gains_bps(curves: Curves) -> np.ndarray:
    """Closed-out gain of each account over its initial equity."""
    return np.asarray(1e4 * (curves.closed_out / curves.equity[:, 0] - 1.0))


class _OneOf(Strategy):
    """One of several strategies, chosen by a number that is not known when the market is compiled."""

    options: tuple[Strategy, ...]
    choice: int | jax.Array = 0

    @property
    def lookback(self) -> int:
        return max(option.lookback for option in self.options)

    @property
    def n_slots(self) -> int:
        return max(option.n_slots for option in self.options)

    @property
    def n_traits(self) -> int:  # type: ignore[override]
        return max(option.n_traits for option in self.options)

    @property
    def quotes(self) -> bool:  # type: ignore[override]
        return any(option.quotes for option in self.options)

    def act(self, key: jax.Array, market: MarketView, account: AccountView) -> Orders:
        orders = [option.act(key, market, account).pad(self.n_slots) for option in self.options]
        return jax.tree.map(lambda *choices: jnp.take(jnp.stack(choices), jnp.asarray(self.choice), axis=0), *orders)


def evaluate(
    config: ExperimentConfig, learner: Learner, policies: Mapping[str, Any], split: str = "test"
) -> Evaluation:
    """Play trained policies and all baselines on a split.

    Args:
        config: of the experiment.
        learner: that made the policies; tells how groups act.
        policies: state by group, with a leading axis `[S]` where the experiment has several seeds.
        split: `train`, `validation` or `test`; synthetic markets ignore it.

    Raises:
        ValueError: as `load_world`; too little data in the split.
    """
    world = load_world(config, split).with_whole_split()
    settings = config.evaluation
    scale = float(world.market.quanta_per_unit)
    env, params = MarketEnv.build(_with_roles(world.market, world.market.roles))
    env = RecordingEnv(env.default_params)
    learned = jax.jit(lambda policies, params: _play_seeds(config, learner, env, params, policies))(policies, params)
    played = jax.tree.map(np.asarray, learned)
    dates = None if world.dates is None else world.dates[-int(world.market.episode_length) - 1 :]
    recording = _recording(env, params, played, config.market.roles, dates)
    baseline_role = _baseline_role(config)
    return Evaluation(
        split=split,
        roles={role.name: _curves(env, played, role.name, scale) for role in config.market.roles if role.learned},
        scripted={
            role.name: _curves(env, played, role.name, scale) for role in config.market.roles if not role.learned
        },
        baselines=_play_baselines(config, world, baseline_role, scale),
        baseline_role=baseline_role,
        sample=_sample(recording),
        recording=recording,
        dates=dates,
        periods_per_year=float(world.market.process.steps_per_year),
        markets=settings.markets * config.seeds,
        draws=settings.draws,
        auctions=judge(env, params, played, tuple(role.name for role in config.market.roles), settings.draws),
    )


def check_evaluation(config: ExperimentConfig, split: str = "test") -> None:
    """Build what `evaluate` will play, before hours are spent on training.

    Raises:
        ValueError: as `evaluate`.
    """
    market = load_world(config, split).with_whole_split().market
    options = config.evaluation.baselines
    MarketEnv.build(_with_baselines(market, options) if options else _with_roles(market, market.roles))


def _play_seeds(config: ExperimentConfig, learner: Learner, env: MarketEnv, params: MarketParams, policies: Any) -> Any:
    """Records of all seeds, leading axis `[S]`; the same markets for each."""

    def play(policies: Any) -> Any:
        act = learner.policy(policies, config.evaluation.deterministic)
        return _play(env, params, act, config)

    return jax.vmap(play)(policies) if config.seeds > 1 else jax.tree.map(lambda leaf: leaf[None], play(policies))


def _play_baselines(config: ExperimentConfig, world: World, role: str, scale: float) -> dict[str, Curves]:
    """Each baseline in the place of all learned roles; one compilation for all of them."""
    options = config.evaluation.baselines
    if not options:
        return {}

    env, params = MarketEnv.build(_with_baselines(world.market, options))

    @jax.jit
    def play(choice: jax.Array, params: MarketParams) -> Any:
        roles = tuple(
            r.replace(strategy=r.strategy.replace(choice=choice)) if isinstance(r.strategy, _OneOf) else r
            for r in params.roles
        )
        return _play(env, params.replace(roles=roles), lambda *_: ({}, ()), config)

    curves = {}
    for choice, name in enumerate(_names(options)):
        played = jax.tree.map(lambda leaf: np.asarray(leaf)[None], play(as_arrays(choice), params))
        curves[name] = _curves(env, played, role, scale)
    return curves


def _play(env: MarketEnv, params: MarketParams, act: Act, config: ExperimentConfig) -> dict[str, jax.Array]:
    """One episode in every market, recorded in quanta and lots: leaves `[T, ..., E]`, and two of the ends.

    A market that has no last day is given one more, so that the state at the end can still be looked at.
    """
    steps = int(env.default_params.episode_length)
    continuing = params.horizon == "continuing"
    if continuing:
        params = params.replace(episode_length=params.episode_length + 1)
    markets = Markets(env, config.evaluation.markets)
    key_markets, key_act = jax.random.split(jax.random.key(config.evaluation.seed))
    obs, carry = markets.reset(key_markets, params)
    idle = {_SPECTATOR: jnp.zeros((1, len(env.asset_names), config.evaluation.markets))}

    def act_all(key: jax.Array, obs: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], Any]:
        actions, extra = act(key, obs)
        return actions | idle, extra

    def record(step: Transition) -> dict[str, Any]:
        recorded = {"equity": step.info["equity"], "traded": step.info["traded"]} | record_step(env, params, step)
        if "recording" in step.info:
            recorded["recording"] = first_market(step)
        return recorded

    last, _, played = collect(markets, params, act_all, carry, obs, key_act, steps, record)
    played["start"] = carry.market.accounts.equity
    if "recording" in played:
        opening = {"ledger": carry.market.ledger, "price": carry.market.mid}
        played["opening"] = jax.tree.map(lambda leaf: leaf[..., 0], opening)
    played["closed_out"] = played["equity"][-1]  # at a terminal horizon everything has been closed already
    if continuing and params.mechanism.makes_price:
        ends = vmap_last(lambda first, last: record_ends(env, params, first, last), (True, True))
        played |= ends(carry.market, last.market)
    if continuing:
        close_out = vmap_last(closed_out, (False, True, False))
        played["closed_out"] = close_out(jax.random.fold_in(key_act, steps), last.market, params)
    result: dict[str, jax.Array] = played
    return result


def _curves(env: MarketEnv, played: Mapping[str, np.ndarray], role: str, scale: float) -> Curves:
    """One curve per agent of the role, market and seed."""
    rows = env.agent_slice(role)
    equity = np.concatenate([played["start"][:, None], played["equity"]], axis=1)[:, :, rows].astype(np.float64) / scale
    traded = played["traded"][:, :, rows].astype(np.float64) / scale
    seeds, _, agents, markets = equity.shape
    number = np.broadcast_to(np.arange(seeds * markets).reshape(seeds, 1, markets), (seeds, agents, markets))
    return Curves(
        equity=np.moveaxis(equity, 1, -1).reshape(-1, equity.shape[1]),
        traded=np.moveaxis(traded, 1, -1).reshape(-1, traded.shape[1]),
        closed_out=played["closed_out"][:, rows].astype(np.float64).reshape(-1) / scale,
        market=number.reshape(-1),
    )


def _recording(
    env: MarketEnv, params: MarketParams, played: Mapping[str, Any], roles: tuple[Role, ...], dates: np.ndarray | None
) -> Recording:
    """The first market of the first seed."""
    first = jax.tree.map(lambda leaf: leaf[0], {name: played[name] for name in ("recording", "opening")})
    return recording_of(env, params, first["recording"], first["opening"], roles, None if dates is None else dates[1:])


def _sample(recording: Recording) -> Sample:
    """The recorded market by roles."""
    weights, flow = {}, {}
    for role in dict.fromkeys(recording.roles):
        agents = recording.of_role(role)
        whole = np.maximum(recording.equity[:, agents].sum(axis=1), 1.0)[:, None]
        invested = recording.held[:, agents].sum(axis=1) * recording.price / whole
        weights[role] = np.concatenate([1.0 - invested.sum(axis=1, keepdims=True), invested], axis=1)
        flow[role] = recording.lots[:, agents].sum(axis=1).astype(np.float64)
    price = recording.price / recording.quanta_per_unit
    return Sample(asset_names=recording.asset_names, price=price, weights=weights, flow=flow)


def _with_roles(market: MarketParams, roles: tuple[Role, ...]) -> MarketParams:
    """The market with these roles and the spectator, who comes last and so changes nobody's random numbers."""
    sees = (Portfolio(), TimeLeft()) if market.horizon == "terminal" else (Portfolio(),)
    limits = RiskLimits(max_position_lots=1)
    spectator = Role(name=_SPECTATOR, cash=1.0, action=TradeFraction(), observations=sees, limits=limits)
    return market.replace(roles=(*roles, spectator))


def _with_baselines(market: MarketParams, options: tuple[Strategy, ...]) -> MarketParams:
    """The market with a baseline in the place of every learned role."""
    strategy = _OneOf(options=options)
    return _with_roles(market, tuple(r.replace(strategy=strategy) if r.learned else r for r in market.roles))


def _baseline_role(config: ExperimentConfig) -> str:
    named = config.evaluation.baseline_role
    return named or next(role.name for role in config.market.roles if role.learned)


def _names(options: tuple[Strategy, ...]) -> list[str]:
    """Kinds of the strategies, numbered from the second of a kind on."""
    names: list[str] = []
    for option in options:
        earlier = sum(other.kind() == option.kind() for other in options[: len(names)])
        names.append(option.kind() if not earlier else f"{option.kind()}_{earlier + 1}")
    return names
