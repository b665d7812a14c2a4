"""One evaluated market, written down step by step: what each agent did, why, at what price, and who was paid.

Belongs here: what the evaluation keeps of that market, exact to the smallest unit of money, and the two files made of
it: `recording.json` for the replay and `trades.csv`. Does not belong here: playing (`evaluate`), showing (`report`).
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.money import Money, int_quanta
from jaxarena.core.reduce import total
from jaxarena.env.env import MarketEnv, Transitioned
from jaxarena.env.rewards import Transition
from jaxarena.env.roles import Role
from jaxarena.env.settlement import fees_of, penalties_of
from jaxarena.env.state import Cleared, Decision, MarketParams, MarketState
from jaxarena.experiment.files import plain, write_text
from jaxarena.learn.rollout import Transition as Step

#: What a replay may take of a page, and whom it shows; longer episodes and larger crowds are shown in part.
MAX_REPLAY_BYTES = 700_000
MAX_REPLAY_AGENTS = 24
#: Series of agents that a recording keeps.
AGENT_SERIES = ("lots", "positions", "held", "trades", "fees", "penalties", "redeemed", "cash", "equity")
#: What of the book a replay shows.
BOOK = ("best_bid_ticks", "best_ask_ticks", "bid_lots", "ask_lots", "imbalance_lots", "volume_lots")
HOUSES = ("dealer", "exchange", "lender", "issuer")
TRADE_COLUMNS = (
    "step", "date", "agent", "role", "asset", "side", "lots", "price", "value", "fee", "penalty", "shortfall", "reason",
)  # fmt: skip


class RecordingEnv(MarketEnv):
    """A market whose `info["recording"]` tells all that is needed to explain a step, before any reset."""

    def _outcome(
        self,
        before: MarketState,
        state: MarketState,
        decision: Decision,
        cleared: Cleared,
        transition: Transition,
        params: MarketParams,
    ) -> Transitioned:
        state, reward, terminated, truncated, info = super()._outcome(
            before, state, decision, cleared, transition, params
        )
        fills, held = cleared.fills, state.ledger.agents
        lots = fills.bought - fills.sold
        positions = before.ledger.agents.lots + lots
        recording = {
            "alive": before.accounts.alive,
            "called": decision.called,
            "bids": total(jnp.maximum(decision.orders.lots, 0), 2),
            "asks": total(jnp.maximum(-decision.orders.lots, 0), 2),
            "lots": lots,
            "positions": positions,
            "held": held.lots,
            "trades": fills.cash,
            "fees": fees_of(fills, params),
            "penalties": penalties_of(fills, decision.called, self._limits(params)),
            "redeemed": Money.of_lots(state.close, positions - held.lots, params.tick_value).sum(1),
            "cash": held.cash,
            "houses": {house: getattr(state.ledger, house).cash for house in HOUSES},
            "mid": cleared.mid,
            "price": state.mid,
            "equity": state.accounts.equity,
        }
        book = params.mechanism.book(state.mechanism)
        if book is not None:
            recording["book"] = {name: getattr(book, name) for name in BOOK}
        return state, reward, terminated, truncated, info | {"recording": recording}


def first_market(step: Step) -> dict[str, Any]:
    """What `RecordingEnv` told of the first of `E` markets, and the learned roles' actions there."""
    return jax.tree.map(lambda leaf: leaf[..., 0], {"action": step.action} | step.info["recording"])


@dataclasses.dataclass(frozen=True)
class Recording:
    """One market of `T` steps, `N` agents and `A` assets; money is exact, in int64 quanta."""

    asset_names: tuple[str, ...]
    agents: tuple[str, ...]  # [N]
    roles: tuple[str, ...]  # [N]
    deciders: tuple[str, ...]  # [N] "policy", or the name of the scripted strategy
    dates: np.ndarray | None  # [T]
    quanta_per_unit: int
    makes_price: bool
    start: dict[str, Any]  # lots [N, A], cash [N], price [A] and houses, before the first step
    lots: np.ndarray  # [T, N, A] bought minus sold
    positions: np.ndarray  # [T, N, A] after the trades of the step
    held: np.ndarray  # [T, N, A] lots after the step: none where all has been settled
    trades: np.ndarray  # [T, N, A] cash received for lots
    fees: np.ndarray  # [T, N, A]
    penalties: np.ndarray  # [T, N] of margin calls
    redeemed: np.ndarray  # [T, N] cash received from the issuer
    cash: np.ndarray  # [T, N] after the step
    houses: dict[str, np.ndarray]  # name of the account to [T] its cash after the step
    mid: np.ndarray  # [T, A] quanta per lot at the moment of the fill
    price: np.ndarray  # [T, A] quanta per lot after the step
    equity: np.ndarray  # [T, N] quanta
    actions: list[list[list[str]]]  # [T][N][A] in words
    reasons: list[list[str]]  # [T][N] why an agent's own decision was overruled; empty where it was not
    book: dict[str, np.ndarray] | None  # [T, A] each, where the agents make the price

    def of_role(self, name: str) -> np.ndarray:
        """Which agents have the role, `[N]` bool."""
        return np.array([role == name for role in self.roles])

    def trade_rows(self) -> list[dict[str, Any]]:
        """Every fill, in order, with exact amounts in units of currency; keys as in `TRADE_COLUMNS`."""
        return [self._trade(t, n, asset) for t, n, asset in np.argwhere(self.lots != 0).tolist()]

    def _trade(self, t: int, n: int, asset: int) -> dict[str, Any]:
        lots, cash = int(self.lots[t, n, asset]), int(self.trades[t, n, asset])
        return {
            "step": t + 1,
            "date": "" if self.dates is None else str(self.dates[t]),
            "agent": self.agents[n],
            "role": self.roles[n],
            "asset": self.asset_names[asset],
            "side": "buy" if lots > 0 else "sell",
            "lots": abs(lots),
            "price": self._units(round(abs(cash) / abs(lots))),
            "value": self._units(abs(cash)),
            "fee": self._units(int(self.fees[t, n, asset])),
            "penalty": self._units(self._penalty(t, n, asset)),
            "shortfall": self._units(round(-cash - lots * float(self.mid[t, asset]))),
            "reason": self.reasons[t][n] or f"{self.deciders[n]}: {self.actions[t][n][asset]}",
        }

    def _penalty(self, t: int, n: int, asset: int) -> int:
        """This asset's part of a penalty, by value traded; the parts add up exactly."""
        values = [abs(int(cash)) for cash in self.trades[t, n]]
        below, up_to = (int(self.penalties[t, n]) * sum(values[:k]) // max(sum(values), 1) for k in (asset, asset + 1))
        return up_to - below

    def _units(self, quanta: int) -> str:
        return f"{Decimal(quanta) / self.quanta_per_unit:f}"

    def payments(self) -> tuple[list[str], dict[str, np.ndarray]]:
        """What each role got from whom over the episode: role names, and columns `[R]` in quanta.

        `trades` is cash for lots: from the dealer or, where the agents make the price, from each other. The `exchange`
        takes fees and penalties, the `lender` interest, and bears deficits, the `issuer` redeems lots at the end. Each
        column of cash sums to what that account of the ledger lost. `holdings` is what lots are worth more at the end,
        at the mid, than at the start.
        """
        trades = self.trades.sum(axis=(0, 2))
        exchange = -self.fees.sum(axis=(0, 2)) - self.penalties.sum(axis=0)
        redeemed = self.redeemed.sum(axis=0)
        lots, price = self.start["lots"], self.start["price"]
        by_agent = {
            "trades": trades,
            "exchange": exchange,
            "lender": self.cash[-1] - self.start["cash"] - trades - exchange - redeemed,
            "issuer": redeemed,
            "holdings": (self.held[-1] * self.price[-1]).sum(axis=1) - (lots * price).sum(axis=1),
        }
        names = list(dict.fromkeys(self.roles))
        return names, {
            column: np.array([amounts[self.of_role(name)].sum() for name in names])
            for column, amounts in by_agent.items()
        }

    def replay(self, steps: int) -> dict[str, Any]:
        """Plain data for the report: the first steps of the first agents of each role, and all payments."""
        shown = _some_of_each(self.roles)
        words: dict[str, int] = {}
        unit = self.quanta_per_unit
        roles, payments = self.payments()
        return {
            "assets": self.asset_names,
            "agents": [{"name": self.agents[n], "role": self.roles[n], "decided_by": self.deciders[n]} for n in shown],
            "total": {"steps": len(self.lots), "agents": len(self.agents)},
            "dates": None if self.dates is None else [str(date) for date in self.dates[:steps]],
            "price": _rounded(self.price[:steps] / unit),
            "bought": np.maximum(self.lots[:steps], 0).sum(axis=1),
            "sold": np.maximum(-self.lots[:steps], 0).sum(axis=1),
            "start": self.start["lots"][shown],
            "lots": self.lots[:steps, shown],
            "positions": self.positions[:steps, shown],
            "equity": _rounded(self.equity[:steps, shown] / unit),
            "actions": [
                [
                    [words.setdefault(word, len(words)) for word in _overruled(self.reasons[t][n], self.actions[t][n])]
                    for n in shown
                ]
                for t in range(steps)
            ],
            "words": list(words),
            "book": self.book and {name: _rounded(values[:steps]) for name, values in self.book.items()},
            "payments": {
                "makes_price": self.makes_price,
                "roles": roles,
                "columns": {name: column / unit for name, column in payments.items()},
            },
        }


def recording_of(
    env: MarketEnv,
    params: MarketParams,
    played: Mapping[str, Any],
    opening: Mapping[str, Any],
    roles: tuple[Role, ...],
    dates: np.ndarray | None,
) -> Recording:
    """The market that was recorded, without the agents of other roles.

    Args:
        env: that was played.
        params: of it.
        played: records of `first_market`, `[T, ...]`.
        opening: its `ledger` and `price` before the first step.
        roles: to keep, the first ones of the environment.
        dates: [T] of the steps, where they have any.
    """
    n, ledger = sum(role.count for role in roles), opening["ledger"]
    of_agents = {name: _host(played[name])[:, :n] for name in AGENT_SERIES}
    return Recording(
        asset_names=env.asset_names,
        agents=tuple(_agent_name(role, i) for role in roles for i in range(role.count)),
        roles=tuple(role.name for role in roles for _ in range(role.count)),
        deciders=tuple(_decider(role) for role in roles for _ in range(role.count)),
        dates=dates,
        quanta_per_unit=int(params.quanta_per_unit),
        makes_price=params.mechanism.makes_price,
        start={
            "lots": _host(ledger.agents.lots)[:n],
            "cash": _host(ledger.agents.cash)[:n],
            "price": _host(opening["price"]),
            "houses": {house: _host(getattr(ledger, house).cash) for house in HOUSES},
        },
        houses={house: _host(played["houses"][house]) for house in HOUSES},
        mid=_host(played["mid"]),
        price=_host(played["price"]),
        actions=_actions(env, played, roles),
        reasons=_reasons(params, played, n),
        book=_book(params, played),
        **of_agents,
    )


def write_recording(recording: Recording, replay: Path, trades: Path) -> None:
    """Write the replay as JSON and all trades as CSV."""
    write_text(replay, _replay_text(recording))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, TRADE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(recording.trade_rows())
    write_text(trades, text.getvalue())


def _replay_text(recording: Recording) -> str:
    """The replay as JSON, of as many first steps as fit."""
    steps = len(recording.lots)
    while True:
        text = json.dumps(plain(recording.replay(steps)), separators=(",", ":"), ensure_ascii=False)
        if steps == 1 or len(text.encode()) <= MAX_REPLAY_BYTES:
            return text + "\n"
        steps = max(int(0.95 * steps * MAX_REPLAY_BYTES / len(text.encode())), 1)


def _actions(env: MarketEnv, played: Mapping[str, Any], roles: tuple[Role, ...]) -> list[list[list[str]]]:
    """What each agent decided, in words, [T][N][A]: a policy's action, or a strategy's orders."""
    bids, asks, alive = (np.asarray(played[name]) for name in ("bids", "asks", "alive"))
    n_assets = len(env.asset_names)
    said: list[list[list[str]]] = [[] for _ in bids]
    for role in roles:
        agents = range(*env.agent_slice(role.name).indices(bids.shape[1]))
        for t, of_step in enumerate(said):
            for i, n in enumerate(agents):
                if not alive[t, n]:
                    of_step.append(["bankrupt"] * n_assets)
                elif role.learned:
                    of_step.append(role.action.describe(np.asarray(played["action"][role.name][t, i]), n_assets))
                else:
                    of_step.append([_order_words(*lots) for lots in zip(bids[t, n], asks[t, n], strict=True)])
    return said


def _order_words(bid: int, ask: int) -> str:
    wanted = [f"{side} {lots:,}" for side, lots in (("buy", bid), ("sell", ask)) if lots]
    return ", ".join(wanted) or "no order"


def _reasons(params: MarketParams, played: Mapping[str, Any], n: int) -> list[list[str]]:
    """Why agents did not do what they had decided, [T][N]."""
    closes = params.horizon == "terminal" and not params.mechanism.makes_price
    at_end = np.arange(len(played["called"])) == len(played["called"]) - 1
    return [
        ["margin call" if called else "closing out" if closes and last else "" for called in step[:n]]
        for step, last in zip(np.asarray(played["called"]), at_end, strict=True)
    ]


def _overruled(reason: str, words: list[str]) -> list[str]:
    return [reason] * len(words) if reason else words


def _book(params: MarketParams, played: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The book after each auction, prices in units of currency per lot."""
    if "book" not in played:
        return None
    value = np.asarray(params.tick_value) / int(params.quanta_per_unit)
    book = {name: np.asarray(series) for name, series in played["book"].items()}
    return {name: series * value if name.endswith("_ticks") else series for name, series in book.items()}


def _host(values: Any) -> np.ndarray:
    """Money as int64 quanta; lots and prices as they are."""
    if isinstance(values, Money):
        return np.asarray(int_quanta(values), np.int64)
    array = np.asarray(values)
    return array.astype(np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64)


def _agent_name(role: Role, place: int) -> str:
    return f"{role.name} {place + 1}" if role.count > 1 else role.name


def _decider(role: Role) -> str:
    return "policy" if role.learned else role.strategy.kind()


def _some_of_each(roles: tuple[str, ...]) -> list[int]:
    """Numbers of the first agents of every role, `MAX_REPLAY_AGENTS` of them at most, at least one of a role."""
    names = list(dict.fromkeys(roles))
    if len(roles) <= MAX_REPLAY_AGENTS:
        return list(range(len(roles)))
    each = max(MAX_REPLAY_AGENTS // len(names), 1)
    return [n for name in names for n in [i for i, role in enumerate(roles) if role == name][:each]]


def _rounded(values: np.ndarray) -> np.ndarray:
    """Numbers with eight digits, which is what a page can show of them."""
    return np.vectorize(lambda number: float(f"{number:.8g}"), otypes=[float])(values)
