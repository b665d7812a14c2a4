"""Comparing runs: groups of seeds, intervals against formulas worked out here, refusals, files; and `report`."""

import csv
import json
import re

import numpy as np
import pytest
from scipy import stats

from jaxarena import compare, report
from jaxarena.experiment.compare import compare as compared
from jaxarena.experiment.compare import difference_of
from jaxarena.experiment.config import dump_config, load_config
from jaxarena.experiment.files import write_json
from jaxarena.experiment.metrics import Estimate
from jaxarena.experiment.run import RunFolder

TINY = """\
name: tiny
market:
  process: planted_signal
  indicators: []
  roles: [{name: one, action: buy_hold_sell, observations: [signal, portfolio]}]
  episode_length: 8
evaluation: {markets: 2, draws: 20, baselines: [hold]}
"""


@pytest.fixture
def made(tmp_path):
    """Makes a run folder as training would leave it, with a Sharpe ratio and its interval."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)

    def make(name, sharpe, *overrides, low=None, high=None, jax="1"):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.config.write_text(dump_config(load_config(file, list(overrides))))
        write_json(folder.meta, {"name": name, "versions": {"jax": jax}})
        roles = {"one": {"sharpe": {"value": sharpe, "interval": None if low is None else [low, high]}}}
        write_json(folder.summary, {"eval": {"split": "test", "roles": roles, "scripted": {}, "baselines": {}}})
        return folder.path

    return make


def test_seeds_are_one_group_with_a_t_interval(made):
    values = [0.9, 1.1, 1.6]
    runs = [made(f"a{i}", value, f"seed={i}", low=0.0, high=9.0) for i, value in enumerate(values)]
    other = made("b", 2.0, "ppo.lr=0.01", low=1.5, high=3.0)
    found = compared([*runs, other], ["sharpe"])
    first, second = found.rows
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (first.group, first.over, first.difference) == ("a0 +2", "3 seeds", None)
    np.testing.assert_allclose([first.estimate.value, first.estimate.low, first.estimate.high], [1.2, low, high])
    assert (second.group, second.over, second.estimate) == ("b", "markets", Estimate(2.0, 1.5, 3.0))
    assert second.difference.value == pytest.approx(0.8)
    assert second.difference.low == pytest.approx(0.8 - np.hypot(0.5, high - 1.2))
    assert second.difference.high == pytest.approx(0.8 + np.hypot(1.0, 1.2 - low))
    assert found.changes == {"b": {"ppo.lr": (0.0003, 0.01)}}


def test_intervals_hold_what_they_promise():
    """Of differences of two normal means, about 95 % of the intervals cover the truth."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        one, other = rng.normal(1.0, 2.0), rng.normal(0.0, 1.0)
        found = difference_of(
            Estimate(one, one - 1.96 * 2.0, one + 1.96 * 2.0), Estimate(other, other - 1.96, other + 1.96)
        )
        hits += found.low <= 1.0 <= found.high
    assert 0.94 < hits / 2000 < 0.96


def test_what_is_undefined_stays_so(made):
    runs = [made("a", 1.0, "seed=0"), made("b", None, "seed=1"), made("c", 2.0, "ppo.lr=0.01")]
    first, second = compared(runs, ["sharpe"]).rows
    assert first.estimate == Estimate(None, reason="undefined in some of the runs")
    assert second.estimate == Estimate(2.0)
    assert second.difference.value is None


def test_other_markets_are_refused_unless_asked_for(made):
    runs = [made("a", 1.0), made("b", 2.0, "market.episode_length=16")]
    with pytest.raises(ValueError, match=r"b was judged in other markets than a.*episode_length: 8 -> 16.*--anyway"):
        compared(runs, ["sharpe"])
    found = compared(runs, ["sharpe"], anyway=True)
    assert "episode_length: 8 -> 16" in found.notes[0]
    seen = [made("d", 1.0, "market.roles.0.observations=[signal]")]
    assert compared([runs[0], *seen], ["sharpe"]).notes == ()  # what an agent sees is its own affair


def test_a_repeated_run_and_another_version_are_noted(made):
    runs = [made("a", 1.0), made("again", 1.0), made("b", 2.0, "seed=1", jax="2")]
    found = compared(runs, ["sharpe"])
    assert [len(group.runs) for group in found.groups] == [2]
    repeat, version = found.notes
    assert re.search(r"again repeats .*a, seed included", repeat)
    assert 'jax: "1" -> "2"' in version


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: no run there"),
        (["{a}", "--metric", "sharp"], "unknown metric 'sharp'; did you mean 'sharpe'"),
        (["{a}", "--split", "validation"], "evaluated on test; run: jaxarena evaluate"),
    ],
)
def test_bad_input(made, arguments, told, capsys):
    run = made("a", 1.0)
    assert compare.main([argument.format(a=run) for argument in arguments]) == 2
    assert told in capsys.readouterr().err


def test_table_and_files(made, tmp_path, capsys):
    runs = [made("a", 1.0, low=0.8, high=1.2), made("b", 3.0, "ppo.lr=0.01", low=2.5, high=3.5)]
    assert compare.main([*map(str, runs), "--metric", "sharpe", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1:] == [
        "sharpe\tone\ta\t1\t0.8 .. 1.2\t\t\tmarkets",
        f"sharpe\tone\tb\t3\t2.5 .. 3.5\t2 *\t{2 - np.hypot(0.5, 0.2):.3g} .. {2 + np.hypot(0.5, 0.2):.3g}\tmarkets",
    ]
    assert "  ppo.lr: 0.0003 -> 0.01" in printed.err
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [1.0, 3.0]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][1]["difference"]["value"] == 2.0
    for name in ("comparison.svg", "comparison.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_report_is_written_anew(made, capsys):
    run = made("a", 1.0)
    assert report.main([str(run)]) == 0
    page = run / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert "<h1>a</h1>" in page.read_text()
    assert report.main([str(run / "none")]) == 2
