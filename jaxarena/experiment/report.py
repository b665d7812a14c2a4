"""One page about one run, `report.html`, that needs no network and no other file.

Belongs here: turning the files of a run folder into HTML. Does not belong here: making those files
(`evaluate`, `plots`, `run`). A missing file leaves out its section, so that the report of an interrupted
run can be written too.
"""

import base64
import html
import json
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxarena.experiment.files import read_json, write_text
from jaxarena.experiment.metrics import METRICS
from jaxarena.experiment.plots import INK
from jaxarena.experiment.run import PROGRAM, RunFolder

_MAX_SVG_BYTES = 400_000
_MAX_IMAGE_BYTES = 2_600_000  # of all pictures together; with the text the page stays below 3 MB
#: Sections of pictures: title, explanation, names of plots (or how they begin).
_PICTURES = (
    (
        "Equity and drawdown",
        "Medians over the evaluated markets; bands hold the middle 80 %.",
        ("equity", "drawdown"),
    ),
    (
        "Prices that the market made",
        "One evaluated market; the memory of returns over all of them; and what each role gained from each other, at "
        "the hidden value in the end, before fees, where buyers and sellers of an auction are matched pro rata.",
        ("auction",),
    ),
    ("Portfolios", "Shares of equity in one evaluated market.", ("weights",)),
    ("Market flow", "Who bought and who sold in one evaluated market.", ("flow",)),
    ("Learning", "Logged while training; thin lines are seeds.", ("learning",)),
)
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

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1b1c1d; --soft: #5d646b; --paper: #ffffff; --card: #f5f6f7; --line: #dcdfe2; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaec; --soft: #a3abb3; --paper: #15181b; --card: #1e2226; --line: #353b41; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 1.2rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 52rem; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .6rem .35rem 0; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td small { display: block; color: var(--soft); font-size: .78rem; }
tr.scripted td:first-child, tr.baselines td:first-child { color: var(--soft); }
tr.roles + tr.scripted td, tr.roles + tr.baselines td, tr.scripted + tr.baselines td {
  border-top: 2px solid var(--line); }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--soft); white-space: nowrap; }
.pictures { display: grid; gap: 1.2rem; grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; } figure svg { display: block; width: 100%; min-width: 27rem; height: auto; color: var(--ink); }
figure img { display: block; width: 100%; min-width: 27rem; background: #fff; border-radius: 4px; }
pre { background: var(--card); padding: .8rem; border-radius: 6px; overflow-x: auto; font-size: .82rem;
  line-height: 1.4; }
summary { cursor: pointer; color: var(--accent); }
@media (min-width: 60rem) { .pictures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .pictures.single { grid-template-columns: minmax(0, 44rem); } }
@media print { summary { display: none; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from the files that the run folder holds.

    Returns:
        the path of the page.

    Raises:
        ValueError: `config.yaml` or `meta.json` is missing or damaged.
    """
    meta = read_json(folder.meta)
    summary = read_json(folder.summary) if folder.summary.is_file() else {}
    config = folder.config.read_text(encoding="utf-8")
    sections = [
        _heading(meta, summary),
        *(_results(result) for part, result in summary.items() if part.startswith("eval")),
        *(_auctions(result) for part, result in summary.items() if part.startswith("eval")),
        *_picture_sections(folder.plots),
        _repeat(folder, meta),
        _section("Configuration", f"<pre>{html.escape(config)}</pre>"),
        _environment(meta),
    ]
    title = html.escape(f"{meta.get('name', folder.path.name)}: jaxarena report")
    return write_text(folder.report, _PAGE.substitute(title=title, body="\n".join(filter(None, sections))))


def _heading(meta: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    device = meta.get("device", {})
    facts = [f"seed {meta.get('seed')}", f"started {meta.get('started')}", f"on {device.get('kind', 'unknown device')}"]
    train = summary.get("train", {})
    if train.get("agent_steps"):
        facts.append(f"{train['agent_steps']:,} agent steps")
    if train.get("wall_s"):
        facts.append(f"trained for {train['wall_s']:,.0f} s")
    if train.get("agent_steps_per_s"):
        facts.append(f"{train['agent_steps_per_s']:,.0f} agent steps/s")
    if train.get("compile_s"):
        facts.append(f"compiled in {train['compile_s']:,.0f} s")
    name = html.escape(str(meta.get("name", "run")))
    unfinished = (
        "" if summary else "<p><strong>This run has no summary.json yet: it is running or was cut off.</strong></p>"
    )
    return f'<h1>{name}</h1>\n<p class="soft">{html.escape(" · ".join(facts))}</p>\n{unfinished}'


def _results(result: Mapping[str, Any]) -> str:
    """Table of learned roles, the scripted roles beside them, then baselines, for one data split."""
    groups = tuple((kind, result.get(kind, {})) for kind in ("roles", "scripted", "baselines"))
    names = [
        name
        for name in (*METRICS, "closed_out", "profit_bps")
        if any(name in row for _, rows in groups for row in rows.values())
    ]
    head = "".join(f'<th title="{html.escape(_HINTS[name])}">{name.replace("_", " ")}</th>' for name in names)
    body = "".join(
        f'<tr class="{kind}"><td>{html.escape(who)}{_KINDS[kind]}</td>'
        + "".join(f"<td>{_estimate(name, row.get(name))}</td>" for name in names)
        + "</tr>\n"
        for kind, rows in groups
        for who, row in rows.items()
    )
    note = result.get("note", "")
    explained = (
        "Averages over the evaluated markets; below each number its 95 % bootstrap interval. "
        "A dash has its reason when you point at it."
    )
    return _section(
        f"Results: {result.get('split', '')}",
        f'<p class="soft">{explained} {html.escape(note)}</p>\n'
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>\n{body}</tbody></table></div>',
    )


def _auctions(result: Mapping[str, Any]) -> str:
    """Tables of comparisons, market quality and stylised facts, where the market made its own price."""
    if "auctions" not in result:
        return ""
    split = html.escape(str(result.get("split", "")))
    versus = _rows("who against whom", ("bps of initial equity",), {k: (v,) for k, v in result["comparisons"].items()})
    text = (
        '<p class="soft">Closed-out gain of learned roles minus that of scripted ones in the same markets; the '
        "interval resamples markets.</p>"
    )
    parts = [_section(f"Learned against scripted: {split}", text + versus)]
    for auctions in result["auctions"]:
        quality = _rows("market quality", ("value",), {k: (v,) for k, v in auctions["quality"].items()})
        made, real = auctions["facts"], result["real_bars"]
        facts = _rows("stylised fact", ("this market", "real daily bars"), _facts(made, real))
        title = f"Market quality and stylised facts: {split} {html.escape(auctions['asset'])}"
        source = '<p class="soft">Facts as in Cont (2001), beside daily bars of AAPL, IBM and MSFT, 2000 to 2013.</p>'
        parts.append(_section(title, quality + source + facts))
    return "\n".join(parts)


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
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td>"
        + "".join(f"<td>{_estimate('', cell)}</td>" for cell in cells)
        + "</tr>\n"
        for name, cells in rows.items()
    )
    table = f"<table><thead><tr><th>{first}</th>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


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
    """A number as people read it, with a real minus sign; one without a name with three digits."""
    text = f"{100 * value:,.1f} %" if name in _PERCENT else f"{value:,.2f}" if name else f"{value:.3g}"
    return text.replace("-", _MINUS)


def _picture_sections(plots: Path) -> list[str]:
    """A section for each kind of plot that exists; plots of no known kind come last."""
    paths = sorted(plots.glob("*.svg")) if plots.is_dir() else []
    known = tuple(start for _, _, starts in _PICTURES for start in starts)
    others = ("Further plots", "", tuple(p.stem for p in paths if not p.stem.startswith(known)))
    budget, sections = _MAX_IMAGE_BYTES, []
    for title, text, starts in (*_PICTURES, others):
        figures = []
        for path in dict.fromkeys(path for start in starts for path in paths if path.stem.startswith(start)):
            figure = _figure(path)
            budget -= len(figure)
            figures.append(figure if budget > 0 else f"<p>See plots/{html.escape(path.name)}; left out for size.</p>")
        if figures:
            single = " single" if len(figures) == 1 else ""
            grid = f'<div class="pictures{single}">{"".join(figures)}</div>'
            sections.append(_section(title, f'<p class="soft">{text}</p>\n{grid}'))
    return sections


def _figure(path: Path) -> str:
    """An inlined plot: SVG that takes the page's text colour, or PNG where the SVG is large and a PNG exists."""
    png = path.with_suffix(".png")
    if path.stat().st_size > _MAX_SVG_BYTES and png.is_file():
        data = base64.b64encode(png.read_bytes()).decode()
        return (
            f'<figure class="scroll"><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></figure>'
        )
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{path.stem}">', svg, count=1)
    return f'<figure class="scroll">{_own_ids(svg, path.stem).replace(INK, "currentColor")}</figure>'


def _own_ids(svg: str, stem: str) -> str:
    """Keep the ids that the drawing refers to, made unique on the page; drop the others."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{stem}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{stem}-\1)", svg)
    return re.sub(r'xlink:href="#([^"]+)"', rf'href="#{stem}-\1"', svg)


def _repeat(folder: RunFolder, meta: Mapping[str, Any]) -> str:
    """Commands that repeat, resume and evaluate this run."""
    git = meta.get("git")
    commit = f"git checkout {git['commit']}" if git else "# the run was not started in a Git working tree"
    if git and git.get("dirty"):
        commit += "   # the working tree had changes that are not in this commit"
    path, program = folder.path, meta.get("program", PROGRAM)
    evaluate = ("Evaluate again", f"python -m jaxarena.evaluate {path}")
    lines = (
        ("Repeat", f"{commit}\npython -m {program} {path / 'config.yaml'} run_dir={path}-again"),
        ("Resume", f"python -m {program} --resume {path}"),
        *([evaluate] if program == PROGRAM else []),
        ("Started with", str(meta.get("command", ""))),
    )
    text = "".join(f"<h3>{title}</h3><pre>{html.escape(command)}</pre>\n" for title, command in lines)
    return _section("Repeat or resume", text)


def _environment(meta: Mapping[str, Any]) -> str:
    rows = [
        *((f"{name}", version) for name, version in meta.get("versions", {}).items()),
        ("device", _words(meta.get("device"))),
        ("system", meta.get("system")),
        ("commit", _words(meta.get("git"))),
        ("started", meta.get("started")),
        *(("resumed", resume.get("started")) for resume in meta.get("resumed", [])),
    ]
    body = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>\n" for name, value in rows)
    return _section("Environment", f'<div class="scroll"><table class="facts"><tbody>\n{body}</tbody></table></div>')


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {json.dumps(item) if isinstance(item, bool) else item}" for key, item in value.items())
    return "none" if value is None else str(value)


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{body}\n</section>"
