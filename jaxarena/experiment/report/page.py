"""One page about one run, `report.html`, that needs no network and no other file.

Belongs here: turning the files of a run folder into HTML. Does not belong here: making those files
(`evaluate`, `plots`, `run`). A missing file leaves out its section, so that the report of an interrupted
run can be written too.
"""

import html
import importlib.resources
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxarena.experiment.files import read_json, write_text
from jaxarena.experiment.report import market, pictures, tables
from jaxarena.experiment.report.parts import anchor, scroll, section
from jaxarena.experiment.run import PROGRAM, RunFolder

#: Bytes of a page; what pictures may take is what everything else leaves.
MAX_BYTES = 2_900_000


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from the files that the run folder holds.

    Returns:
        the path of the page.

    Raises:
        ValueError: `config.yaml` or `meta.json` is missing or damaged.
    """
    meta = read_json(folder.meta)
    evaluations = {part.removeprefix("eval"): result for part, result in folder.read_evaluations().items()}
    results = [(f"Results: {result.get('split', '')}", tables.results(result)) for result in evaluations.values()]
    markets = [
        found
        for number, suffix in enumerate(evaluations)
        for found in market.sections(folder, suffix, with_replay=number == 0)
    ]
    auctions = [found for result in evaluations.values() for found in tables.auctions(result)]
    end = [
        ("How to reproduce", _repeat(folder, meta)),
        ("Configuration", _config(folder)),
        ("Environment", _environment(meta)),
    ]
    used = sum(len(body.encode()) for _, body in (*results, *markets, *auctions, *end))
    drawn = pictures.sections(folder.plots, MAX_BYTES - used)
    sections = [*results, *drawn[:1], *markets, *auctions, *drawn[1:], *end]
    body = [_heading(meta, folder.read_summary()), _contents([title for title, _ in sections])]
    body += [section(title, text) for title, text in sections]
    page = string.Template(_asset("page.html")).substitute(
        title=html.escape(f"{meta.get('name', folder.path.name)}: jaxarena report"),
        style=_asset("report.css"),
        script=_asset("report.js"),
        body="\n".join(body),
    )
    return write_text(folder.report, page)


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _contents(titles: list[str]) -> str:
    links = "".join(f'<a href="#{anchor(title)}">{html.escape(title)}</a>' for title in titles)
    return f'<nav aria-label="Contents">{links}</nav>'


def _config(folder: RunFolder) -> str:
    text = html.escape(folder.config.read_text(encoding="utf-8"))
    return f"<details><summary>config.yaml, every setting of the run</summary><pre>{text}</pre></details>"


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


def _repeat(folder: RunFolder, meta: Mapping[str, Any]) -> str:
    """Commands that repeat, resume and evaluate this run."""
    git = meta.get("git")
    commit = f"git checkout {git['commit']}" if git else "# the run was not started in a Git working tree"
    if git and git.get("dirty"):
        commit += "   # the working tree had changes that are not in this commit"
    path, program = folder.path, meta.get("program", PROGRAM)
    again = [
        ("Check the numbers", f"python -m jaxarena.verify {path}"),
        ("Evaluate again", f"python -m jaxarena.evaluate {path}"),
    ]
    lines = (
        ("Repeat", f"{commit}\npython -m {program} {path / 'config.yaml'} run_dir={path}-again"),
        ("Resume", f"python -m {program} --resume {path}"),
        *(again if program == PROGRAM else []),
        ("Started with", str(meta.get("command", ""))),
    )
    return "".join(f'<h3>{title}</h3><pre tabindex="0">{html.escape(command)}</pre>\n' for title, command in lines)


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
    return scroll(f'<table class="facts"><tbody>\n{body}</tbody></table>', "Environment")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {json.dumps(item) if isinstance(item, bool) else item}" for key, item in value.items())
    return "none" if value is None else str(value)
