import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from jaxarena.experiment import plots

DATES = np.arange(np.datetime64("2011-01-03"), np.datetime64("2011-04-14"))  # 101 days


def curves(seed=0, count=5):
    returns = np.random.default_rng(seed).normal(0, 0.01, (count, 100))
    return 1e6 * np.concatenate([np.ones((count, 1)), np.cumprod(1 + returns, axis=1)], axis=1)


def figures():
    roles, baselines = {"fund": curves(), "maker": curves(1)}, {"hold": np.ones((1, 101))}
    weights = np.tile([0.5, 0.8, -0.3], (101, 1))
    records = [{"step": step, "loss": [1.0 / step, None], "reward": 0.1} for step in (10, 20, 30)]
    return {
        "equity": plots.equity_figure(roles, baselines, DATES),
        "drawdown": plots.drawdown_figure(roles, baselines, DATES),
        "weights": plots.weights_figure("Portfolio of fund", weights, ["cash", "AAPL", "IBM"], DATES),
        "learning": plots.learning_figure(records, ["loss", "reward", "absent"]),
        "flow": plots.flow_figure(np.linspace(1, 2, 101), {"fund": np.ones(101)}, DATES, "AAPL"),
        "undated": plots.equity_figure(roles, {}),
    }


@pytest.mark.parametrize("name", ["equity", "drawdown", "weights", "learning", "flow", "undated"])
def test_every_figure_is_titled_labelled_and_saved(name, tmp_path):
    figure = figures()[name]
    assert figure.get_suptitle()
    assert figure.axes[-1].get_xlabel() in ("date", "step", "agent steps")
    assert plots.save_figure(figure, tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    svg = tmp_path / f"{name}.svg"
    first, again = (plots.save_figure(figures()[name], svg).read_bytes() for _ in range(2))
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert first == again


def test_lines_show_the_data():
    axes = plots.equity_figure({"fund": curves()}, {"flat": np.full((1, 101), 3.0)}, DATES).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["fund"].get_ydata(), np.median(curves() / 1e6, axis=0))
    np.testing.assert_allclose(lines["flat"].get_ydata(), 1.0)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["fund", "flat"]


def test_wide_ranges_get_a_logarithmic_axis():
    tall = np.geomspace(1, 100, 101)[None]
    assert plots.equity_figure({"fund": tall}, {}).axes[0].get_yscale() == "log"
    assert plots.equity_figure({"fund": curves()}, {}).axes[0].get_yscale() == "linear"
    bankrupt = np.concatenate([np.ones((1, 100)), np.zeros((1, 1))], axis=1)
    assert plots.equity_figure({"fund": bankrupt}, {}).axes[0].get_yscale() == "linear"


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="dates: expected 101"):
        plots.equity_figure({"fund": curves()}, {}, DATES[:-1])
    with pytest.raises(ValueError, match=r"weights: expected shape \[T, 2\]"):
        plots.weights_figure("x", np.ones((5, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="svg or"):
        plots.save_figure(plots.equity_figure({"fund": curves()}, {}), plots.Path("x.gif"))


def test_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.save_figure(figures()["equity"], tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, jaxarena.experiment.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
