"""The report as a reader meets it: in a browser, in both themes, on a desktop and on a phone."""

import importlib.util
import json

import numpy as np
import pytest

from jaxarena.experiment import plots
from jaxarena.experiment.config import load_config
from jaxarena.experiment.files import write_json
from jaxarena.experiment.metrics import summarise
from jaxarena.experiment.recording import Recording, write_recording
from jaxarena.experiment.report import write_report
from jaxarena.experiment.run import create_run
from tests.experiment.browser import CHROMIUM, browser
from tests.experiment.conftest import YAML

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the path"),
    pytest.mark.skipif(importlib.util.find_spec("websocket") is None, reason="needs websocket-client"),
]
SHOWN = "document.querySelector('output').textContent"
ROWS = "[...document.querySelectorAll('.replay tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"


def recording(steps, agents, assets, book=False):
    """A made-up market with consistent positions."""
    rng = np.random.default_rng(0)
    shape = (steps, agents, assets)
    lots = rng.integers(-500, 500, shape) * (rng.random(shape) < 0.3)
    positions = lots.cumsum(axis=0)
    price = 1000 + rng.normal(0, 3, (steps, assets)).cumsum(axis=0)
    money = np.round(-lots * price[:, None]).astype(np.int64)
    fees = np.abs(money) // 1000
    names = ("best_bid_ticks", "best_ask_ticks", "bid_lots", "ask_lots", "imbalance_lots", "volume_lots")
    cash = (money - fees).sum(axis=2).cumsum(axis=0)
    return Recording(
        asset_names=tuple(f"ASSET{i}" for i in range(assets)),
        agents=tuple(f"agent {n}" for n in range(agents)),
        roles=tuple("fast" if n % 2 else "slow" for n in range(agents)),
        deciders=tuple("policy" if n % 2 else "market_maker" for n in range(agents)),
        dates=np.datetime64("2001-01-01") + np.arange(steps),
        quanta_per_unit=100,
        makes_price=book,
        start={"lots": lots[0] * 0, "cash": cash[0] * 0, "price": price[0], "houses": {}},
        lots=lots,
        positions=positions,
        held=positions,
        trades=money,
        fees=fees,
        penalties=fees[:, :, 0] * 0,
        redeemed=fees[:, :, 0] * 0,
        cash=cash,
        houses={},
        mid=price,
        price=price,
        equity=cash + (positions * price[:, None]).sum(axis=2),
        actions=[[[f"target {(t + n) % 100} %"] * assets for n in range(agents)] for t in range(steps)],
        reasons=[["margin call" if (t, n) == (3, 1) else "" for n in range(agents)] for t in range(steps)],
        book={name: rng.integers(1, 100, (steps, assets)) for name in names} if book else None,
    )


def make_report(folder, market):
    config = folder / "tiny.yaml"
    config.write_text(YAML)
    run = create_run(load_config(config, [f"run_dir={folder / 'run'}"]), ["train"])
    equity = np.cumprod(1 + np.random.default_rng(0).normal(0, 0.01, (3, 60)), axis=1)
    rows = {"fast": summarise(equity, np.ones((3, 59)), draws=20)}
    write_json(run.summary, {"eval": {"split": "test", "roles": rows, "scripted": {}, "baselines": rows}})
    for name, figure in (
        ("equity", plots.equity_figure({"fast": equity}, {})),
        ("drawdown", plots.drawdown_figure({"fast": equity}, {})),
    ):
        plots.save_figure(figure, run.plots / f"{name}.svg")
    write_recording(market, run.recording(), run.trades())
    return run, write_report(run)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("report"), recording(steps=40, agents=4, assets=2, book=True))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def shown_rows(market, t, asset):
    """What the table of agents must say."""
    rows = []
    for n, agent in enumerate(market["agents"]):
        lots, position = market["lots"][t][n][asset], market["positions"][t][n][asset]
        rows.append(
            [
                agent["name"] + agent["decided_by"].replace("_", " "),
                market["words"][market["actions"][t][n][asset]],
                f"{lots:+,}" if lots else "0",
                f"{position:,}",
                f"{round(market['equity'][t][n]):,}",
            ]
        )
    return [[cell.replace("-", "\N{MINUS SIGN}") for cell in row] for row in rows]


def test_the_page_loads_alone_and_without_complaint(page, report):
    page.requests.clear()
    page.open(report[1])
    page.run("document.querySelector('.play').click()")
    assert page.requests == [report[1].resolve().as_uri()]
    assert page.problems == []
    drawn = "[...document.querySelectorAll('figure svg')].map(svg => svg.getBBox().width * svg.getBBox().height > 0)"
    assert page.run(drawn) == [True, True, True]


def test_the_slider_moves_the_replay_through_what_was_recorded(page, report):
    run, path = report
    market = json.loads(run.recording().read_text())
    page.open(path)
    assert page.run(SHOWN).startswith("step 1 of 40 · 2001-01-01 · price ")
    assert page.run(ROWS) == shown_rows(market, 0, 0)
    page.run("document.querySelector('.replay input').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert page.run(SHOWN).startswith("step 4 of 40 · 2001-01-04 · price ")
    assert page.run(ROWS) == shown_rows(market, 3, 0)
    assert page.run(ROWS)[1][1] == "margin call"
    line = page.run("Number(document.querySelector('.chart line').getAttribute('x1'))")
    assert line == pytest.approx(1000 * 3 / 39)
    page.run(
        "const asset = document.querySelector('.asset'); asset.value = 1; asset.dispatchEvent(new Event('change'))"
    )
    page.press("End")
    assert page.run(ROWS) == shown_rows(market, 39, 1)
    depth = page.run("[...document.querySelectorAll('.depth dd')].map(bar => Number(bar.textContent))")
    assert depth == [market["book"][name][39][1] for name in ("bid_lots", "ask_lots", "volume_lots", "imbalance_lots")]


def test_play_goes_on_by_itself_and_pauses(page, report):
    page.open(report[1])
    page.run("document.querySelector('.play').click()")
    waited = "new Promise(done => setTimeout(() => done(Number(document.querySelector('.replay input').value)), 600))"
    answer = page.call("Runtime.evaluate", expression=waited, awaitPromise=True, returnByValue=True)
    assert 1 <= answer["result"]["value"] <= 6
    page.run("document.querySelector('.play').click()")
    assert page.run("document.querySelector('.play').textContent") == "Play"


def test_trades_can_be_filtered_and_sorted(page, report):
    page.open(report[1])
    visible = "[...document.querySelectorAll('.trades tbody tr')].filter(row => !row.hidden)"
    both = page.run(f"{visible}.length")
    page.run(
        "const role = document.querySelector('.role'); role.value = 'fast'; role.dispatchEvent(new Event('change'))"
    )
    assert 0 < page.run(f"{visible}.length") < both
    assert page.run(f"{visible}.every(row => row.dataset.role === 'fast')")
    column = page.run("[...document.querySelectorAll('.trades th')].findIndex(head => head.textContent === 'lots')")
    lots = f"{visible}.map(row => Number(row.cells[{column}].textContent.replace(',', '')))"
    before = page.run(lots)
    page.run(f"document.querySelectorAll('.trades th button')[{column}].click()")
    assert page.run(lots) == sorted(before) != before
    page.run(f"document.querySelectorAll('.trades th button')[{column}].click()")
    assert page.run(lots) == sorted(before, reverse=True)


def test_a_phone_scrolls_no_page_sideways_and_dark_is_dark(page, report):
    backgrounds = {}
    for theme in ("light", "dark"):
        for width in (1280, 390):
            page.open(report[1], width=width, theme=theme)
            assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        backgrounds[theme] = page.run("getComputedStyle(document.body).backgroundColor")
    assert backgrounds["light"] == "rgb(255, 255, 255)"
    assert sum(map(int, backgrounds["dark"].removeprefix("rgb(").removesuffix(")").split(","))) < 100


def test_a_big_run_is_shown_in_part_and_says_so(page, tmp_path):
    run, path = make_report(tmp_path, recording(steps=1500, agents=60, assets=4))
    assert path.stat().st_size < 3_000_000
    page.open(path)
    steps = len(json.loads(run.recording().read_text())["price"])
    assert 100 < steps < 1500
    assert page.run(SHOWN).startswith(f"step 1 of {steps} ")
    text = page.run("document.body.innerText")
    assert f"The first {steps} of 1,500 steps are shown. 24 of 60 agents are shown." in text
    assert "400 of " in text


def test_a_second_split_adds_its_trades_but_no_second_replay(tmp_path):
    run, _ = make_report(tmp_path, recording(steps=10, agents=2, assets=1))
    summary = json.loads(run.summary.read_text())
    write_json(run.summary, summary | {"eval_validation": summary["eval"] | {"split": "validation"}})
    write_recording(recording(steps=8, agents=2, assets=1), run.recording("_validation"), run.trades("_validation"))
    text = write_report(run).read_text()
    assert text.count('<div class="replay">') == 1
    assert "<h2>Trades</h2>" in text
    assert "<h2>Trades (validation)</h2>" in text
