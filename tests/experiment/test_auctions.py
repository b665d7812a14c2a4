"""A short run of the auction configuration leaves the numbers, tables and pictures that its page promises."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxarena import train

CONFIG = Path(__file__).parents[2] / "configs" / "auction_makers.yaml"
SHORT = (
    "train.agent_steps=1",
    "train.markets=4",
    "train.updates_per_chunk=1",
    "ppo.rollout_length=16",
    "evaluation.markets=3",
    "evaluation.draws=20",
    "market.episode_length=120",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "auction"
    assert train.main([str(CONFIG), *SHORT, f"run_dir={path}"]) in (None, 0)
    return path


@pytest.fixture(scope="module")
def result(folder):
    return json.loads((folder / "summary.json").read_text())["eval"]


def test_what_roles_gain_from_each_other_sums_to_their_profits(result):
    (auctions,) = result["auctions"]
    payments = auctions["who_pays_whom"]
    assert payments["roles"] == ["maker", "informed", "dealer", "noise", "fundamental", "trend"]
    gains = np.array(payments["value"])
    np.testing.assert_allclose(gains, -gains.T, atol=1e-6 * np.abs(gains).max())
    noise = payments["roles"].index("noise")
    per_agent = 1e-4 * result["scripted"]["noise"]["profit_bps"]["value"] * 2_000_000
    before_fees = gains[noise].sum() / 36
    assert per_agent <= before_fees  # fees are what is missing
    assert before_fees - per_agent < 0.2e-4 * result["scripted"]["noise"]["turnover"]["value"] * 2_000_000


def test_learned_roles_are_compared_with_scripted_ones_market_by_market(result):
    versus = result["comparisons"]["maker - dealer"]
    apart = result["roles"]["maker"]["profit_bps"]["value"] - result["scripted"]["dealer"]["profit_bps"]["value"]
    assert versus["value"] == pytest.approx(apart, abs=1e-6)
    low, high = versus["interval"]
    assert low <= versus["value"] <= high
    assert result["baselines"]["hold"]["profit_bps"]["value"] == 0.0


def test_single_numbers_stand_in_the_last_line_of_the_records(folder, result):
    *_, last = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    quality = result["auctions"][0]["quality"]
    assert last["quality/pricing_error_bps"] == pytest.approx(quality["pricing_error_bps"]["value"])
    assert last["quality/quoted_spread_bps"] > 0
    assert last["split"] == "test"


def test_the_report_shows_tables_and_pictures(folder):
    page = (folder / "report.html").read_text()
    for text in ("Learned against scripted", "Market quality and stylised facts", "real daily bars", "kyle lambda"):
        assert text in page
    for name in ("auction_price", "auction_memory", "auction_payments"):
        assert (folder / "plots" / f"{name}.svg").is_file()
        label = name.replace("_", " ")
        assert f'aria-label="{label}"' in page or f'alt="{label}"' in page
