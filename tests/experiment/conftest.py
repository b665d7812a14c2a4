import pytest

YAML = """\
name: tiny
seed: 3
market:
  process: {kind: gbm, n_assets: 2, volatility: 0.3}
  roles:
    - name: careful
      count: 2
      limits: {max_leverage: 1.0}
    - {name: bold}
    - {name: crowd, count: 3, strategy: random}
  episode_length: 20
ppo: {lr: 1e-3, rollout_length: 8, hidden: [8]}
train: {agent_steps: 4_000, markets: 4}
evaluation: {markets: 2, baselines: [buy_and_hold, {kind: random, trade_probability: 0.5}]}
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path
