import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxarena.experiment import plots
from jaxarena.experiment.config import load_config
from jaxarena.experiment.files import write_json
from jaxarena.experiment.metrics import Estimate, summarise
from jaxarena.experiment.report import page, pictures, write_report
from jaxarena.experiment.run import RunFolder, create_run


class Page(HTMLParser):
    """Checks that tags are balanced and collects text, headings and references."""

    VOID = ("input", "meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.headings, self.references = [], "", [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture
def run(config_file, tmp_path) -> RunFolder:
    return create_run(load_config(config_file, [f"run_dir={tmp_path / 'run'}"]), ["train", "<tiny> & more"])


def finish(run: RunFolder) -> None:
    equity = np.cumprod(1 + np.random.default_rng(0).normal(0, 0.01, (3, 60)), axis=1)
    metrics = summarise(equity, np.ones((3, 59)), draws=50) | {"calmar": Estimate(None, reason="equity never fell")}
    groups = {"roles": {"careful": metrics}, "scripted": {"crowd": metrics}, "baselines": {"buy_and_hold": metrics}}
    evaluation = {"split": "test", "note": "3 markets."} | groups
    write_json(run.summary, {"train": {"agent_steps": 4000, "wall_s": 3.0}, "eval": evaluation})
    for name, figure in {
        "equity": plots.equity_figure({"careful": equity}, {}),
        "drawdown": plots.drawdown_figure({"careful": equity}, {}),
        "weights_careful": plots.weights_figure("Portfolio", np.ones((5, 1)), ["cash"]),
        "other": plots.learning_figure([], ["x"]),
        "other_2": plots.learning_figure([], ["y"]),
    }.items():
        plots.save_figure(figure, run.plots / f"{name}.svg")
        plots.save_figure(figure, run.plots / f"{name}.png")


def test_one_page_with_everything(run):
    finish(run)
    text = write_report(run).read_text()
    page = Page(text)
    assert page.headings == [
        "tiny",
        "Results: test",
        "Equity and drawdown",
        "Portfolios",
        "Further plots",
        "How to reproduce",
        "Configuration",
        "Environment",
    ]
    for needed in (
        "careful",
        "buy_and_hold",
        "crowd",
        "max drawdown",
        "4,000 agent steps",
        "lr: 0.001",
        "<tiny> & more",
    ):
        assert needed in page.text
    assert f"--resume {run.path}" in page.text
    assert 'title="equity never fell"' in text
    assert len(text) < 3_000_000
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_needs_no_network_and_no_other_file(run):
    finish(run)
    page = Page(write_report(run).read_text())
    assert page.references
    assert all(reference.startswith(("#", "data:")) for reference in page.references)


def test_drawings_keep_their_own_ids_and_follow_the_text_colour(run):
    finish(run)
    text = write_report(run).read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert re.findall('<svg [^>]*aria-label="([^"]+)"', text) == [
        "equity",
        "drawdown",
        "weights careful",
        "other",
        "other 2",
    ]
    ids = []
    for drawing in drawings:
        ET.fromstring(drawing)
        own = re.findall(r' id="([^"]+)"', drawing)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing)) == set(own)
        assert plots.INK not in drawing
        assert "currentColor" in drawing
        ids += own
    assert len(ids) == len(set(ids))


def test_large_drawings_are_pixels_and_the_page_stays_small(run, monkeypatch):
    finish(run)
    monkeypatch.setattr(pictures, "_MAX_SVG_BYTES", 100)
    assert write_report(run).read_text().count("data:image/png;base64,") == 5
    monkeypatch.setattr(page, "MAX_BYTES", 100)
    text = write_report(run).read_text()
    assert "data:image" not in text
    assert "left out for size" in text


def test_a_run_without_results_has_a_page_too(run):
    page = Page(write_report(run).read_text())
    assert "has no summary.json yet" in page.text
    assert page.headings == ["tiny", "How to reproduce", "Configuration", "Environment"]


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"meta\.json: no such file"):
        write_report(RunFolder(tmp_path))
