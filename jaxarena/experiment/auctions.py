"""What markets that make their own price wrote down while policies were judged: prices, quotes, and who traded.

Belongs here: collecting the records of auctions and turning them into the numbers of `quality`. Does not belong here:
the formulas (`quality`), pictures (`plots`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.reduce import total
from jaxarena.env.env import MarketEnv
from jaxarena.env.state import MarketParams, MarketState
from jaxarena.experiment.metrics import Estimate
from jaxarena.experiment.quality import (
    Allocation,
    Bootstrap,
    Estimates,
    MarketQuality,
    StylisedFacts,
    Tape,
    market_quality,
    stylised_facts,
    who_pays_whom,
)
from jaxarena.learn.rollout import Transition


@dataclasses.dataclass(frozen=True)
class Auctions:
    """One asset's auctions in `M` markets of `T` steps, judged."""

    asset: str
    roles: tuple[str, ...]  # [R]
    tape: Tape
    quality: MarketQuality
    facts: StylisedFacts
    payments: Estimates  # [R, R] what the row's role gained from the column's role, currency per market

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        payments = {"roles": list(self.roles)} | self.payments.as_dict()
        return {
            "asset": self.asset,
            "quality": self.quality.as_dict(),
            "facts": self.facts.as_dict(),
            "who_pays_whom": payments,
        }

    def numbers(self) -> dict[str, float | None]:
        """The single numbers, for `metrics.jsonl`."""
        facts = {
            "excess_kurtosis": self.facts.excess_kurtosis,
            "volume_volatility": self.facts.volume_volatility,
            "decay_exponent": self.facts.decay_exponent,
        }
        found = {f"quality/{name}": estimate.value for name, estimate in self.quality.numbers.items()}
        found |= {f"facts/{name}": estimate.value for name, estimate in facts.items()}
        for name, of_lags in (("", self.facts.autocorrelation), ("absolute_", self.facts.absolute_autocorrelation)):
            for lag in (1, 5, 20):
                if lag <= self.facts.lags.size:
                    found[f"facts/{name}autocorrelation_{lag}"] = float(of_lags.value[lag - 1])
        return found


def record_step(env: MarketEnv, params: MarketParams, step: Transition) -> dict[str, jax.Array]:
    """What one step of `E` markets writes down; nothing where prices come from outside."""
    market = step.carry.market
    book = params.mechanism.book(market.mechanism)
    if book is None:
        return {}
    bought = jnp.maximum(step.info["lots"], 0)  # [N, A, E]; nobody trades both ways in one auction
    sold = jnp.maximum(-step.info["lots"], 0)
    rows = [env.agent_slice(role.name) for role in env.roles]
    return {
        "auction_price": book.price_ticks,
        "auction_value": market.close,
        "auction_bid": book.best_bid_ticks,
        "auction_ask": book.best_ask_ticks,
        "auction_bid_lots": book.bid_lots,
        "auction_ask_lots": book.ask_lots,
        "auction_volume": book.volume_lots,
        "auction_flow": step.info["taker_flow"],
        "auction_bought": jnp.stack([total(bought[role], 0) for role in rows]),  # [R, A, E]
        "auction_sold": jnp.stack([total(sold[role], 0) for role in rows]),
    }


def record_ends(env: MarketEnv, params: MarketParams, first: MarketState, last: MarketState) -> dict[str, jax.Array]:
    """Who held what at both ends of the episode of one market, and what it is worth to each agent on top."""
    return {
        "start_lots": first.ledger.agents.lots,
        "end_lots": last.ledger.agents.lots,
        "private_value": env.private_values(first, params),
    }


def judge(
    env: MarketEnv, params: MarketParams, played: Mapping[str, np.ndarray], roles: tuple[str, ...], draws: int
) -> tuple[Auctions, ...]:
    """Every asset's auctions.

    Args:
        env: that was played.
        params: of it.
        roles: that may have traded.
        played: records of `record_step`, `[S, T, ..., A, E]`, and perhaps of `record_ends`, `[S, ..., E]`.
        draws: of the bootstrap.
    """
    if "auction_price" not in played:
        return ()
    return tuple(
        _judge_asset(env, params, played, roles, index, name, Bootstrap(draws=draws))
        for index, name in enumerate(env.asset_names)
    )


def _judge_asset(
    env: MarketEnv,
    params: MarketParams,
    played: Mapping[str, np.ndarray],
    roles: tuple[str, ...],
    index: int,
    name: str,
    bootstrap: Bootstrap,
) -> Auctions:
    unit = float(params.process.tick_size) * float(np.asarray(jnp.broadcast_to(params.tick_value, (index + 1,)))[-1])

    def series(key: str, scale: float = 1.0) -> np.ndarray:
        """`[M, T]` of this asset."""
        return np.asarray(_markets_first(played[key][:, :, index]) * scale)

    def by_role(key: str) -> np.ndarray:
        """`[M, T, R]` of this asset."""
        return np.stack([_markets_first(played[key][:, :, r, index]) for r in range(len(env.roles))], axis=2)

    tape = Tape(
        price=series("auction_price", unit),
        value=series("auction_value", unit),
        best_bid=series("auction_bid", unit),
        best_ask=series("auction_ask", unit),
        bid_lots=series("auction_bid_lots"),
        ask_lots=series("auction_ask_lots"),
        volume=series("auction_volume"),
        signed_flow=series("auction_flow"),
    )
    returns = np.diff(np.log(tape.price), axis=1)
    lags = min(100, max(returns.shape[1] // 4, 1))
    traded = [i for i, role in enumerate(env.roles) if role.name in roles]
    payments = who_pays_whom(
        by_role("auction_bought")[:, :, traded],
        by_role("auction_sold")[:, :, traded],
        tape.price,
        tape.value[:, -1],
        bootstrap,
    )
    return Auctions(
        asset=name,
        roles=tuple(env.roles[i].name for i in traded),
        tape=tape,
        quality=market_quality(tape, _allocation(params, played, index, unit), bootstrap),
        facts=stylised_facts(returns, tape.volume[:, 1:], lags),
        payments=payments,
    )


def _allocation(params: MarketParams, played: Mapping[str, np.ndarray], index: int, unit: float) -> Allocation | None:
    """Who held what, where anybody has a private value and nobody is short."""
    if "end_lots" not in played or all(role.private_value_bps is None for role in params.roles):
        return None
    start, end = (_markets_first(played[key][:, None, :, index])[:, 0] for key in ("start_lots", "end_lots"))
    if (start < 0).any() or (end < 0).any():
        return None
    worth = _markets_first(played["private_value"][:, None])[:, 0]  # [M, N] shares of the value
    value = _markets_first(played["auction_value"][:, :, index])[:, -1] * unit
    caps = [np.full(role.count, int(role.limits.max_position_lots)) for role in params.roles]
    return Allocation(
        start_lots=start,
        end_lots=end,
        private_value=worth * value[:, None],
        capacity_lots=np.maximum(np.concatenate(caps), start.max(axis=0)),
    )


def _markets_first(array: np.ndarray) -> np.ndarray:
    """`[S, T, ..., E]` to `[S * E, T, ...]` in float64."""
    moved = np.moveaxis(np.asarray(array, np.float64), -1, 1)
    return moved.reshape(-1, *moved.shape[2:])


def market_means(values: np.ndarray, markets: np.ndarray) -> np.ndarray:
    """Mean of the accounts of each market, in the order of the markets' numbers."""
    numbers = np.unique(markets)
    return np.array([values[markets == number].mean() for number in numbers])


def mean_estimate(values: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Mean over markets with its bootstrap interval."""
    if values.size < 2:
        return Estimate(float(values.mean()), reason="an interval needs several markets")
    picks = np.random.default_rng(bootstrap.seed).integers(0, values.size, (bootstrap.draws, values.size))
    tails = [50.0 * (1.0 - bootstrap.confidence), 50.0 * (1.0 + bootstrap.confidence)]
    low, high = np.percentile(values[picks].mean(axis=1), tails)
    return Estimate(float(values.mean()), float(low), float(high))
