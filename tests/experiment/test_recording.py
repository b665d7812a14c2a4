"""The recorded market against the ledger that was played: every sum is exact."""

import csv
import json
from decimal import Decimal

import numpy as np
import pytest

from jaxarena.experiment import recording as recordings
from jaxarena.experiment.config import load_config
from jaxarena.experiment.evaluate import evaluate
from jaxarena.experiment.recording import TRADE_COLUMNS, write_recording
from jaxarena.experiment.training import Trainer, policies_of

DEALER = """\
market:
  process: {kind: gbm, n_assets: 2, volatility: 2.0}
  mechanism: {kind: dealer, half_spread_bps: 20, impact: {kind: linear_impact, transient: 0.05}}
  financing: {borrow_rate: 0.3, short_fee: 0.2}
  roles:
    - {name: bold, count: 2, observations: [portfolio, time_left],
       limits: {max_leverage: 4.0, initial_margin: 0.25, allow_short: true}}
    - {name: crowd, count: 3, strategy: {kind: random, trade_probability: 0.7, max_weight: 4.0},
       limits: {max_leverage: 4.0, initial_margin: 0.25, maintenance_margin: 0.24, allow_short: true}}
  episode_length: 30
  horizon: terminal
"""
AUCTION = """\
market:
  process: {kind: gbm, volatility: 0.16, ticks_per_unit: 100}
  mechanism: call_auction
  costs: {kind: proportional_fees, fee_bps: 0.5}
  roles:
    - {name: maker, count: 2, cash: 10_000_000, lots: 100, action: limit_quotes,
       observations: [portfolio, time_left], limits: {allow_short: true}}
    - {name: noise, count: 6, cash: 10_000_000, lots: 100, strategy: noise_trader}
  episode_length: 30
  horizon: terminal
"""
LEARNING = """\
ppo: {rollout_length: 4, minibatches: 1, hidden: [4]}
train: {agent_steps: 1, markets: 2}
evaluation: {markets: 2, draws: 20, baselines: []}
"""


@pytest.fixture(scope="module", params=[DEALER, AUCTION], ids=["dealer", "auction"])
def recording(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "market.yaml"
    path.write_text(request.param + LEARNING)
    config = load_config(path, [])
    trainer = Trainer(config)
    return evaluate(config, trainer.ppo, policies_of(trainer.init())).recording


def houses_lost(recording):
    """What each house account paid out over the episode, in quanta."""
    return {name: int(recording.start["houses"][name] - cash[-1]) for name, cash in recording.houses.items()}


def quanta(recording, text):
    amount = Decimal(text) * recording.quanta_per_unit
    assert amount == int(amount)
    return int(amount)


def test_fees_of_all_trades_are_what_the_exchange_got(recording):
    trades = recording.trade_rows()
    charged = sum(quanta(recording, trade[name]) for trade in trades for name in ("fee", "penalty"))
    assert charged == -houses_lost(recording)["exchange"] > 0
    for agent in recording.agents:
        own = sum(quanta(recording, trade["fee"]) for trade in trades if trade["agent"] == agent)
        assert own == recording.fees[:, recording.agents.index(agent)].sum()


def test_positions_move_by_what_was_traded(recording):
    before = np.concatenate([recording.start["lots"][None], recording.held[:-1]])
    np.testing.assert_array_equal(recording.positions - before, recording.lots)
    np.testing.assert_array_equal(recording.positions[:-1], recording.held[:-1])
    assert not recording.held[-1].any()  # closed out, or settled at the hidden value
    assert recording.positions[-1].any() == recording.makes_price


def test_what_roles_got_is_what_the_accounts_of_the_ledger_lost(recording):
    _, columns = recording.payments()
    lost = houses_lost(recording)
    assert columns["trades"].sum() == lost["dealer"]
    for house in ("exchange", "lender", "issuer"):
        assert columns[house].sum() == lost[house]
    assert (columns["issuer"].sum() != 0) == recording.makes_price
    endowed = recording.start["cash"].sum() + (recording.start["lots"] * recording.start["price"]).sum()
    assert sum(column.sum() for column in columns.values()) == pytest.approx(recording.cash[-1].sum() - endowed)


def test_trades_say_why(recording):
    trades = recording.trade_rows()
    reasons = {trade["reason"].split(":")[0] for trade in trades}
    if recording.makes_price:
        assert "noise_trader" in reasons
        return
    assert reasons == {"policy", "random", "margin call", "closing out"}
    assert all(
        (trade["step"] == 30) == (trade["reason"] == "closing out")
        for trade in trades
        if trade["reason"] != "margin call"
    )
    assert all((trade["reason"] == "margin call") == (float(trade["penalty"]) > 0) for trade in trades)
    costs = [float(trade["shortfall"]) / float(trade["value"]) for trade in trades]
    assert np.mean(costs) > 15e-4  # half-spread of 20 bps, and impact that some earn from others


def test_files_hold_what_was_recorded(recording, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "MAX_REPLAY_AGENTS", 4)
    monkeypatch.setattr(recordings, "MAX_REPLAY_BYTES", 3_000)
    write_recording(recording, tmp_path / "recording.json", tmp_path / "trades.csv")
    with (tmp_path / "trades.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (recording.lots != 0).sum()
    assert tuple(rows[0]) == TRADE_COLUMNS
    replay = json.loads((tmp_path / "recording.json").read_text())
    shown = [recording.agents.index(agent["name"]) for agent in replay["agents"]]
    steps = len(replay["price"])
    assert {recording.roles[n] for n in shown} == set(recording.roles)
    assert (tmp_path / "recording.json").stat().st_size <= 3_001
    assert 1 < steps < len(recording.lots)
    assert replay["total"] == {"steps": len(recording.lots), "agents": len(recording.agents)}
    np.testing.assert_array_equal(replay["positions"], recording.positions[:steps, shown])
    assert replay["words"][replay["actions"][0][0][0]] == recording.actions[0][0][0]
