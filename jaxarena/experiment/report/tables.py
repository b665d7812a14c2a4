"""The numbers of an evaluation as tables.

Belongs here: estimates, with their intervals, in HTML. Does not belong here: one market step by step (`market`).
"""

import html
from collections.abc import Mapping
from typing import Any

from jaxarena.experiment.metrics import METRICS
from jaxarena.experiment.report.parts import MINUS, headings, note, scroll

_PERCENT = {"annual_return", "volatility", "max_drawdown", "hit_rate", "closed_out"}
_KINDS = {"roles": "", "scripted": "<small>scripted role</small>", "baselines": "<small>baseline</small>"}
_HINTS = {
    "annual_return": "compound growth per year",
    "volatility": "standard deviation of returns per year",
    "sharpe": "mean return over its standard deviation, per year, without a riskless rate",
    "sortino": "mean return over the root mean square of losing returns, per year",
    "max_drawdown": "largest loss from an earlier high",
    "calmar": "annual return over maximum drawdown",
    "hit_rate": "share of gaining steps among steps on which equity moved",
    "turnover": "bought plus sold over equity, per year",
    "closed_out": "annual return if everybody closed all positions together at the end, or settled at the hidden value",
    "profit_bps": "gain over initial equity when positions are closed out at the end, in basis points",
}

_DASH = "\N{EN DASH}"


def results(result: Mapping[str, Any]) -> str:
    """Table of learned roles, the scripted roles beside them, then baselines, for one data split."""
    groups = tuple((kind, result.get(kind, {})) for kind in ("roles", "scripted", "baselines"))
    names = [
        name
        for name in (*METRICS, "closed_out", "profit_bps")
        if any(name in row for _, rows in groups for row in rows.values())
    ]
    head = "".join(
        f'<th scope="col" title="{html.escape(_HINTS[name])}">{name.replace("_", " ")}</th>' for name in names
    )
    body = "".join(
        f'<tr class="{kind}"><td>{html.escape(who)}{_KINDS[kind]}</td>'
        + "".join(f"<td>{_estimate(name, row.get(name))}</td>" for name in names)
        + "</tr>\n"
        for kind, rows in groups
        for who, row in rows.items()
    )
    explained = (
        "Averages over the evaluated markets; below each number its 95 % bootstrap interval. "
        "A dash has its reason when you point at it. "
    )
    table = f'<table><thead><tr><th scope="col">who</th>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return note(explained + str(result.get("note", ""))) + scroll(table, "Results") + _against_baselines(result)


def _against_baselines(result: Mapping[str, Any]) -> str:
    """Differences of learned roles from baselines; nothing where the run has none."""
    rows = {role: tuple(cells.values()) for role, cells in result.get("against_baselines", {}).items() if cells}
    if not rows:
        return ""
    text = (
        "Gain of learned roles minus that of each baseline in the same markets, closed out at the end, in basis points "
        "of initial equity; the interval resamples markets. Where it holds zero the run shows no difference."
    )
    return f"<h3>Against the baselines</h3>{note(text)}" + _rows("role", tuple(result["baselines"]), rows)


def auctions(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Comparisons, market quality and stylised facts, where the market made its own price: titles and tables."""
    if "auctions" not in result:
        return []
    split = result.get("split", "")
    text = (
        "Closed-out gain of learned roles minus that of scripted ones in the same markets; the interval resamples "
        "markets."
    )
    versus = _rows("who against whom", ("bps of initial equity",), {k: (v,) for k, v in result["comparisons"].items()})
    parts = [(f"Learned against scripted: {split}", note(text) + versus)]
    for asset in result["auctions"]:
        quality = _rows("market quality", ("value",), {k: (v,) for k, v in asset["quality"].items()})
        facts = _rows("stylised fact", ("this market", "real daily bars"), _facts(asset["facts"], result["real_bars"]))
        source = note("Facts as in Cont (2001), beside daily bars of AAPL, IBM and MSFT, 2000 to 2013.")
        body = f'<div class="columns"><div>{quality}</div><div>{source}{facts}</div></div>'
        parts.append((f"Market quality and stylised facts: {split} {asset['asset']}", body))
    return parts


def _facts(made: Mapping[str, Any], real: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Rows of the table of stylised facts: the market's and the real bars' estimates by name."""
    rows = {
        "excess kurtosis": (made["excess_kurtosis"], real["excess_kurtosis"]),
        **{
            f"excess kurtosis over {horizon} steps": (cell, real["aggregated_kurtosis"].get(horizon))
            for horizon, cell in made["aggregated_kurtosis"].items()
            if str(horizon) != "1"
        },
        "volume and volatility, correlation": (made["volume_volatility"], real["volume_volatility"]),
        "decay exponent of |returns|": (made["decay_exponent"], real["decay_exponent"]),
    }
    for field, words in (("autocorrelation", "returns"), ("absolute_autocorrelation", "|returns|")):
        for lag in (1, 2, 5, 10, 20):
            rows[f"autocorrelation of {words}, lag {lag}"] = (_at_lag(made[field], lag), _at_lag(real[field], lag))
    return rows


def _at_lag(estimates: Mapping[str, Any], lag: int) -> dict[str, Any] | None:
    if lag > len(estimates["value"]):
        return None
    value, low, high = (estimates[name][lag - 1] for name in ("value", "low", "high"))
    return {"value": value, "interval": None if low is None else [low, high], "reason": estimates["reason"]}


def _rows(first: str, columns: tuple[str, ...], rows: Mapping[str, tuple[Any, ...]]) -> str:
    """A small table of estimates."""
    body = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td>"
        + "".join(f"<td>{_estimate('', cell)}</td>" for cell in cells)
        + "</tr>\n"
        for name, cells in rows.items()
    )
    table = f"<table><thead><tr>{headings((first, *columns))}</tr></thead><tbody>\n{body}</tbody></table>"
    return scroll(table, first.capitalize())


def _estimate(name: str, cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    reason = html.escape(str(cell.get("reason", "")))
    if cell.get("value") is None:
        return f'<span title="{reason}">{_DASH}</span>'
    value = _number(name, cell["value"])
    if cell.get("interval") is None:
        return f'<span title="{reason}">{value}</span>'
    low, high = cell["interval"]
    return f"{value}<small>{_number(name, low)} … {_number(name, high)}</small>"


def _number(name: str, value: float) -> str:
    """A number as people read it, with a real minus sign; one without a name with three digits or more."""
    if name in _PERCENT:
        text = f"{100 * value:,.1f} %"
    elif name:
        text = f"{value:,.2f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS)
