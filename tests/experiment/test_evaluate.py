import numpy as np
import pytest

from jaxarena.data.splits import load_split
from jaxarena.experiment.config import load_config
from jaxarena.experiment.evaluate import evaluate
from jaxarena.experiment.markets import load_world
from jaxarena.experiment.training import Trainer, policies_of

REPLAY = """\
name: replay
data: {symbols: [AAPL], test: [2012-01-01, 2012-06-29]}
market:
  process: historical_replay
  mechanism: {kind: dealer, half_spread_bps: 0, impact: {kind: linear_impact, transient: 0.0, decay: 0.7}}
  costs: {kind: proportional_fees, fee_bps: 0}
  indicators: []
  roles:
    - name: fund
      count: 3
      cash: 100_000_000
      action: {kind: target_weights, low: 0.0}
      observations: [{kind: bar_returns, length: 2}, portfolio]
    - {name: noise, strategy: random, cash: 1000}
  episode_length: 20
ppo: {rollout_length: 4, minibatches: 1, hidden: [4]}
train: {agent_steps: 1, markets: 2}
evaluation: {markets: 2, draws: 20, baselines: [hold, buy_and_hold]}
"""


def evaluation_of(tmp_path, *overrides):
    path = tmp_path / "replay.yaml"
    path.write_text(REPLAY)
    config = load_config(path, overrides)
    trainer = Trainer(config)
    return config, evaluate(config, trainer.ppo, policies_of(trainer.init()))


def test_one_episode_over_the_whole_split_earns_what_the_prices_did(tmp_path):
    config, evaluation = evaluation_of(tmp_path)
    history = load_split(config.data, "test")
    first = config.market.process.liquidity_window
    assert list(evaluation.dates) == list(history.dates[first:])
    held = evaluation.baselines["buy_and_hold"]
    assert held.equity.shape == (6, len(evaluation.dates))
    bought_at = history.open[first + 1, 0]
    invested = held.traded[0, 0] / held.equity[0, 0]  # sized at the close before, filled at the open
    assert 0.97 < invested <= 1.0
    expected = np.concatenate([[1.0], 1.0 + invested * (history.close[first + 1 :, 0] / bought_at - 1.0)])
    growth = held.equity / held.equity[:, :1]
    np.testing.assert_allclose(growth, np.broadcast_to(expected, growth.shape), rtol=2e-5)
    np.testing.assert_allclose(held.closed_out, held.equity[:, -1], rtol=1e-6)
    np.testing.assert_allclose(held.equity[:, 0], 1e8)
    assert (held.traded[:, 1:] == 0).all()
    assert np.ptp(evaluation.baselines["hold"].equity) == 0
    np.testing.assert_allclose(evaluation.sample.price[:, 0], history.close[first + 1 :, 0], rtol=1e-4)


def test_curves_are_grouped_by_market(tmp_path):
    _, evaluation = evaluation_of(tmp_path)
    noise = evaluation.scripted["noise"]
    assert noise.market.tolist() == [0, 1]
    assert (noise.equity[0] != noise.equity[1]).any()  # noise differs between markets
    fund = evaluation.roles["fund"]
    for market in (0, 1):  # equal agents of one market do the same
        of_market = fund.equity[fund.market == market]
        assert of_market.shape[0] == 3
        assert (of_market == of_market[0]).all()


def test_roles_are_compared_with_baselines_market_by_market(tmp_path):
    _, evaluation = evaluation_of(tmp_path, "seeds=2")
    against = evaluation.against_baselines()["fund"]
    assert list(against) == ["hold", "buy_and_hold"]
    fund, held = evaluation.roles["fund"], evaluation.baselines["buy_and_hold"]
    gains = [1e4 * (curves.closed_out / curves.equity[:, 0] - 1.0).mean() for curves in (fund, held)]
    assert against["buy_and_hold"].value == pytest.approx(gains[0] - gains[1], rel=1e-9)
    assert against["hold"].value == pytest.approx(gains[0], rel=1e-9)
    assert against["hold"].low <= against["hold"].value <= against["hold"].high


def test_closing_together_costs_more_than_closing_alone(tmp_path):
    _, evaluation = evaluation_of(tmp_path, "market.mechanism.impact.linear_temporary=0.5")
    held = evaluation.baselines["buy_and_hold"]
    assert (held.closed_out < held.equity[:, -1] * 0.999).all()
    assert (held.closed_out > held.equity[:, -1] * 0.9).all()


def test_the_market_stays_open_when_all_learners_are_bankrupt(tmp_path):
    """A ruined account stays at its last value; the evaluation does not begin a fresh episode."""
    ruin = ("market.mechanism.half_spread_bps=5000", "market.roles.0.limits.ruin_fraction=0.9")
    _, evaluation = evaluation_of(tmp_path, *ruin, "evaluation.baselines=[{kind: random, trade_probability: 1.0}]")
    lost = evaluation.baselines["random"].equity
    assert (lost[:, -1] < 0.9 * lost[:, 0]).all()
    assert (np.diff(lost, axis=1)[:, -20:] == 0).all()


def test_a_split_shorter_than_the_warm_up_is_refused(tmp_path):
    path = tmp_path / "replay.yaml"
    path.write_text(REPLAY)
    config = load_config(path, ["data.test=[2012-01-01, 2012-02-01]"])
    with pytest.raises(ValueError, match=r"the split holds 21 bars, .* = 60 are warm-up; widen its dates"):
        load_world(config, "test").with_whole_split()
