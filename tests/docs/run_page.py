"""Run the code blocks of a documentation page, as a reader would: `python -m tests.docs.run_page docs/tour.md`.

In the order of the page, in one empty working folder:

- ``python`` blocks run in one namespace;
- ``bash`` blocks run with `set -e`, and the folder of this interpreter first on the path;
- a block with ``title="name"`` is saved as the file `name` instead, and can be imported, trained or read from then on;
- ``yaml`` blocks whose keys are those of an experiment must load as a configuration.

A block after a line `<!-- not run: reason -->` is left out. Belongs here: reading and running one page. Does not belong
here: which pages there are (`tests/test_docs.py`).
"""

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int  # of its first line in the page, from 1
    title: str | None  # the file that it shows
    not_run: str | None  # why it is left out


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for match in _BLOCK.finditer(f"\n{text}"):
        reason = re.fullmatch(r"\s*<!-- not run: (.+) -->", match["before"])
        title = re.search(r'title="([^"]+)"', match["options"])
        yield Block(
            language=match["language"],
            code=textwrap.dedent(match["code"]),
            line=match.string.count("\n", 0, match.start("code")),
            title=title[1] if title else None,
            not_run=reason[1] if reason else None,
        )


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in this process, with `folder` as the working folder.

    Raises:
        CalledProcessError: a bash block failed.
        Exception: whatever a python block raised.
    """
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # a file that a page shows twice is read twice
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.not_run:
            continue
        print(f"-- {page.name}, line {block.line}: {block.language}", flush=True)
        if block.title:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            code = "\n" * (block.line - 1) + block.code  # so that tracebacks name lines of the page
            exec(compile(code, str(page), "exec"), space)
        elif block.language == "bash":
            _run_bash(block.code, folder)
        if block.language == "yaml":
            _load_yaml(block.code)


def _run_bash(code: str, folder: Path) -> None:
    """Run shell commands as in an environment in which the package is installed."""
    paths = {
        "PATH": [str(Path(sys.executable).parent), os.environ["PATH"]],
        "PYTHONPATH": [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")],
    }
    environment = os.environ | {name: os.pathsep.join(filter(None, parts)) for name, parts in paths.items()}
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", code], cwd=folder, env=environment, check=True)


def _load_yaml(code: str) -> None:
    """Load a block that belongs into a configuration; a part of a market is laid over a preset."""
    import yaml

    from jaxarena.experiment.config import ExperimentConfig, load_config

    known = {field.name for field in dataclasses.fields(ExperimentConfig)} | {"preset"}
    data = yaml.safe_load(code)
    if not isinstance(data, dict) or not data.keys() <= known:
        return
    complete = "preset" in data or {"process", "roles"} <= data.get("market", {}).keys()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(code)
        file.flush()
        load_config(file.name, [] if complete else ["preset=PlantedSignal-v0"])


def main() -> None:
    """Run the page named on the command line in an empty folder."""
    page = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        run_page(page, Path(folder))


if __name__ == "__main__":
    main()
