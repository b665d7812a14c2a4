import json

import pytest

from jaxarena.experiment.config import load_config
from jaxarena.experiment.files import write_json
from jaxarena.experiment.plots import learning_figure, save_figure
from jaxarena.experiment.run import create_run
from jaxarena.experiment.tracking import JsonlTracker

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


@pytest.fixture
def tracked(config_file, tmp_path):
    """Makes the folder and configuration of a run that the given backends follow."""

    def make(tracking, *overrides, name="run"):
        text = json.dumps(tracking)
        config = load_config(config_file, [f"tracking={text}", f"run_dir={tmp_path / 'runs' / name}", *overrides])
        return config, create_run(config)

    return make


@pytest.fixture
def write_records():
    """Writes records of the given steps as a run does; with several seeds, one number each."""

    def write(folder, steps, seeds=1, after=None):
        with JsonlTracker(folder.metrics, after) as tracker:
            for step in steps:
                losses = [step + place / 2 for place in range(seeds)]
                tracker.log(step, {"loss/careful": losses if seeds > 1 else losses[0], "return/bold": None})

    return write


@pytest.fixture
def finish_run():
    """Leaves what an evaluation leaves."""

    def finish(folder):
        estimate = {"value": 0.5, "interval": [0.0, 1.0]}
        write_json(folder.summary, {"train": {}, "eval": {"split": "test", "roles": {"bold": {"sharpe": estimate}}}})
        folder.report.write_text("<html></html>")
        save_figure(learning_figure([], ["return/bold"]), folder.plots / "equity.png")
        folder.checkpoints.mkdir(exist_ok=True)
        for step in (64, 128):
            (folder.checkpoints / f"step_{step:012d}.npz").write_bytes(b"state")

    return finish
