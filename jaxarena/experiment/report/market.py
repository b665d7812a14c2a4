"""One evaluated market to look into: its replay, who paid whom, and its trades with reasons and costs.

Belongs here: HTML of what `jaxarena.experiment.recording` wrote down; `report.js` brings it to life. Does not belong
here: sums over markets (`tables`).
"""

import csv
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxarena.experiment.files import read_json
from jaxarena.experiment.report.parts import MINUS, headings, note, scroll
from jaxarena.experiment.run import RunFolder

#: Rows of the list of trades on the page; the file holds all of them.
MAX_TRADES = 400

_NUMBERS = {"step", "lots", "price", "value", "fee", "penalty", "shortfall"}
_PAYERS = {
    "trades": "dealer, for lots",
    "exchange": "exchange, fees",
    "lender": "lender, interest",
    "issuer": "issuer, settled",
    "holdings": "value of holdings",
}


def sections(folder: RunFolder, suffix: str, with_replay: bool) -> list[tuple[str, str]]:
    """Titles and texts about the market that an evaluation recorded; none without its files.

    Args:
        folder: of the run.
        suffix: of the evaluation's files: empty for the main split, `_<split>` for others.
        with_replay: whether to show it, which takes much of a page.
    """
    replay, trades = folder.recording(suffix), folder.trades(suffix)
    if not (replay.is_file() and trades.is_file()):
        return []
    recording = read_json(replay)
    split = f" ({suffix.removeprefix('_')})" if suffix else ""
    return [
        *([(f"Market replay{split}", _replay(recording))] if with_replay else []),
        (f"Who pays whom{split}", _payments(recording["payments"])),
        (f"Trades{split}", _trades(trades)),
    ]


def _replay(recording: Mapping[str, Any]) -> str:
    """Controls and empty places for the script to fill, and the data."""
    steps, agents, whole = len(recording["price"]), len(recording["agents"]), recording["total"]
    text = "One evaluated market, step by step: what each agent decided, traded and held."
    if steps < whole["steps"]:
        text += f" The first {steps:,} of {whole['steps']:,} steps are shown."
    if agents < whole["agents"]:
        text += f" {agents:,} of {whole['agents']:,} agents are shown."
    assets = "".join(f"<option value={i}>{html.escape(name)}</option>" for i, name in enumerate(recording["assets"]))
    data = json.dumps(recording, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    depth = "Book after the auction" if recording["book"] else "Traded in this step"
    head = headings(("agent", "action", "traded", "position", "equity"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody></tbody></table>"
    return f"""{note(text)}<div class="replay">
<script type="application/json">{data}</script>
<noscript>The replay needs JavaScript; recording.json in the run's folder holds the same numbers.</noscript>
<div class="controls">
<button type="button" class="play" aria-pressed="false">Play</button>
<input type="range" min="0" max="{steps - 1}" value="0" aria-label="Step of the episode">
<label>Asset <select class="asset">{assets}</select></label>
<output></output>
</div>
<figure class="chart"><svg viewBox="0 0 1000 220" preserveAspectRatio="none" role="img" aria-label="Price"></svg>
<figcaption class="soft"></figcaption></figure>
<h3>{depth}</h3>
<dl class="depth"></dl>
<h3>Agents</h3>
{scroll(table, "Agents at this step")}
</div>"""


def _payments(payments: Mapping[str, Any]) -> str:
    """A matrix of roles against the accounts of the ledger, shaded by size."""
    names = dict(_PAYERS) | ({"trades": "other agents, for lots"} if payments["makes_price"] else {})
    columns = {
        names[name]: amounts for name, amounts in payments["columns"].items() if name != "issuer" or any(amounts)
    }
    columns["gain"] = [sum(amounts) for amounts in zip(*columns.values(), strict=True)]
    rows = [
        f'<tr><th scope="row">{html.escape(role)}</th>'
        + "".join(_shaded(amounts[i], amounts) for amounts in columns.values())
        + "</tr>"
        for i, role in enumerate(payments["roles"])
    ]
    table = f'<table class="matrix"><thead><tr>{headings(("role", *columns))}</tr></thead><tbody>'
    explained = (
        "What each role got from each account of the ledger over the whole episode of this market, in currency; "
        "negative is paid. The value of holdings is how much more its lots are worth at the end than at the start, at "
        "the mid. Gain is the sum of the row."
    )
    return note(explained) + scroll(table + "\n".join(rows) + "</tbody></table>", "Who pays whom")


def _shaded(amount: float, column: list[float]) -> str:
    share = abs(amount) / (max(map(abs, column)) or 1.0)
    side = "gains" if amount > 0 else "pays"
    return f'<td class="{side}" style="--share:{share:.2f}">{_amount(f"{amount:.2f}")}</td>'


def _trades(path: Path) -> str:
    """The first trades of every role in a table that can be sorted and filtered."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, trades = list(reader.fieldnames or ()), list(reader)
    shown = _first_of_each_role(trades)
    roles = list(dict.fromkeys(trade["role"] for trade in trades))
    text = (
        "Fee and penalty go to the exchange; the shortfall is what the fill paid against the mid at its moment: spread "
        "and impact, negative where it earned them. The reason is the policy's action, the strategy's order, a margin "
        f"call, or closing out at the end. {len(shown):,} of {len(trades):,} trades are shown, the first of each role; "
        f"{path.name} in the run's folder holds all."
    )
    options = "".join(f"<option>{html.escape(role)}</option>" for role in roles)
    if not any(trade["date"] for trade in trades):
        columns.remove("date")
    columns.remove("role")  # the agent's name begins with it; rows carry it for the filter
    head = "".join(
        f'<th scope="col"{_numeric(name)}><button type="button">{html.escape(name)}</button></th>' for name in columns
    )
    rows = "\n".join(
        f'<tr data-role="{html.escape(trade["role"])}">'
        + "".join(f"<td{_numeric(name)}>{_cell(name, trade[name])}</td>" for name in columns)
        + "</tr>"
        for trade in shown
    )
    table = scroll(f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>", "Trades")
    chooser = f'<label>Role <select class="role"><option value="">all</option>{options}</select></label>'
    return f'{note(text)}<div class="trades"><p class="controls">{chooser}</p>{table}</div>'


def _first_of_each_role(trades: list[dict[str, str]]) -> list[dict[str, str]]:
    """At most `MAX_TRADES`, in order, as many of one role as of another."""
    roles = {trade["role"] for trade in trades}
    left = dict.fromkeys(roles, MAX_TRADES // max(len(roles), 1))
    shown = []
    for trade in trades:
        left[trade["role"]] -= 1
        if left[trade["role"]] >= 0:
            shown.append(trade)
    return shown


def _numeric(name: str) -> str:
    return ' class="number"' if name in _NUMBERS else ""


def _cell(name: str, text: str) -> str:
    if name in ("fee", "penalty", "shortfall", "value"):
        return _amount(text)
    if name == "lots":
        return f"{int(text):,}"
    return html.escape(text)


def _amount(text: str) -> str:
    """An amount of currency with separators and a real minus sign; small ones keep four digits."""
    amount = float(text)
    return (f"{amount:,.2f}" if abs(amount) >= 1 else f"{amount:.4g}").replace("-", MINUS)
