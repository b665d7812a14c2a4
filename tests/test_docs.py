"""What the documentation says is true: its code runs, its site builds, its specification is that of the code."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jax
import pytest
import yaml

from jaxarena.core.component import families
from jaxarena.core.spaces import Discrete, MultiDiscrete
from jaxarena.experiment.config import load_config
from jaxarena.experiment.markets import build_market
from tests.docs import agent_api
from tests.docs.run_page import blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
#: Pages whose code is run, and its results checked, by tests of their own.
TESTED_ELSEWHERE = {
    "bridges/gymnasium.md": "bridges/test_gymnasium_vector.py",
    "bridges/gymnax.md": "bridges/test_gymnax_env.py",
    "bridges/jaxmarl.md": "bridges/test_jaxmarl_env.py",
    "bridges/pettingzoo.md": "bridges/test_pettingzoo_parallel.py",
    "bridges/rllib.md": "bridges/test_rllib.py",
    "bridges/stable_baselines3.md": "bridges/test_stable_baselines3.py",
    "call_auction.md": "market/test_call_auction.py",
}
EXECUTED = {"python", "bash", "yaml"}
#: Pages whose blocks import packages that warn about themselves.
FOREIGN_WARNINGS = {"how_to/tracking.md": "MLflow uses what SQLAlchemy deprecates"}


def blocks_of(page):
    return list(blocks((DOCS / page).read_text(encoding="utf-8")))


def has_code(page):
    return any(block.language in EXECUTED and not block.not_run for block in blocks_of(page))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TESTED_ELSEWHERE and has_code(page)])
def test_the_code_of_a_page_runs(page):
    """In an interpreter of its own, so that a page may set what must be set before JAX is imported."""
    strict = [] if page in FOREIGN_WARNINGS else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *strict, "-m", "tests.docs.run_page", str(DOCS / page)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize(("page", "test"), TESTED_ELSEWHERE.items())
def test_a_page_that_is_left_out_has_a_test_of_its_own(page, test):
    assert Path(page).name in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_every_fence_is_a_block_that_the_runner_sees():
    """A fence that the runner cannot read would be code that nobody runs."""
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(blocks_of(page)), page


def test_what_is_not_run_says_why():
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert text.count("<!-- not run") == sum(block.not_run is not None for block in blocks_of(page)), page


def test_the_runner_reads_titles_reasons_and_indented_blocks():
    text = (
        "Text\n\n"
        '```python title="mine.py"\nx = 1\n```\n\n'
        "<!-- not run: needs a cluster -->\n```bash\nray up\n```\n\n"
        "- a list\n\n  ```yaml\n  a:\n    b: 1\n  ```\n"
    )
    first, second, third = blocks(text)
    assert (first.language, first.title, first.line, first.not_run) == ("python", "mine.py", 4, None)
    assert (second.code, second.not_run) == ("ray up\n", "needs a cluster")
    assert third.code == "a:\n  b: 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "AssertionError"),
        ("```bash\nfalse\ntrue\n```\n", "CalledProcessError"),
        ("```yaml\nppo: {learning_rate: 1.0}\n```\n", "unknown key 'learning_rate'"),
        ('```python title="mine.py"\nx = 1\n```\n\n```python\nfrom mine import y\n```\n', "cannot import name 'y'"),
    ],
)
def test_a_wrong_page_fails(tmp_path, text, message):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "tests.docs.run_page", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert message in done.stderr


class _Links(HTMLParser):
    """The targets and anchors of a page of the site."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    if importlib.util.find_spec("zensical") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the site needs the extra docs: pip install 'jaxarena[docs]'")
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, root / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, root / name)
    for name in ("jaxarena", "tests"):
        (root / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "warning" not in told.lower(), told
    return root / "site"


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {page: _Links(page) for page in site.rglob("*.html")}
    assert len(pages) > len(PAGES) - 5
    for page, links in pages.items():
        base = site if page.name == "404.html" else page.parent
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = site / parts.path.lstrip("/") if parts.path.startswith("/") else base / unquote(parts.path)
            file = (path / "index.html" if path.is_dir() else path).resolve() if parts.path else page
            assert file.is_file(), f"{page.relative_to(site)} -> {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].anchors, f"{page.relative_to(site)} -> {target}"


def test_every_drawing_is_shown(site):
    drawings = {path.name for path in DOCS.rglob("*.svg")}
    shown = {Path(target).name for page in site.rglob("*.html") for target in _Links(page).targets}
    assert drawings
    assert drawings <= shown


def test_the_reference_shows_docstrings(site):
    text = (site / "reference" / "env" / "index.html").read_text(encoding="utf-8")
    assert "Only <code>terminated</code> zeroes the bootstrap" in text
    assert "&gt;&gt;&gt;" in (site / "reference" / "contracts" / "index.html").read_text(encoding="utf-8")  # a doctest


def test_every_page_is_in_the_navigation():
    def named(node):
        if isinstance(node, str):
            return [node]
        return [page for item in (node.values() if isinstance(node, dict) else node) for page in named(item)]

    navigation = named(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(navigation) == len(set(navigation))
    assert set(PAGES) == {page for page in navigation if "://" not in page}


@pytest.mark.parametrize("name", agent_api.PAGES)
def test_generated_pages_are_those_of_the_code(name):
    expected = agent_api.PAGES[name]() + "\n"
    assert (DOCS / name).read_text(encoding="utf-8") == expected, "run: python -m tests.docs.agent_api"


def test_every_part_is_described():
    described = "".join((DOCS / name).read_text(encoding="utf-8") for name in agent_api.PAGES)
    for family in families():
        for kind in agent_api.members(family):
            assert f"### `{kind}`" in described or f"| `{kind}` |" in described, kind


PLANTED = [
    "preset=PlantedSignal-v0",
    "market.horizon=terminal",
    "market.process.n_assets=2",
    "market.indicators=[rsi, macd]",
    "market.roles.0.observations=[bar_returns, indicators, market_flow, signal, time_left, portfolio]",
]
AUCTION = ["preset=CallAuction-v0", "market.process.n_assets=2"]


@pytest.mark.parametrize("overrides", [PLANTED, AUCTION], ids=["planted", "auction"])
def test_features_and_keys_are_those_of_a_market(overrides):
    """Shapes in the lists of docstrings are those that a market makes."""
    env, params = build_market(load_config(None, overrides))
    outputs = sum(len(indicator.outputs) for indicator in params.indicators)
    slots = max(role.action.n_slots for role in params.roles)
    for role in params.roles:
        if role.learned:
            for block in role.observations:
                letters = {"A": 2, "F": outputs, "K": slots, "length": getattr(block, "length", 0)}
                size = sum(item.size(**letters) for item in agent_api.items(type(block)))
                place = env.observation_layout(role.name)[block.kind()]
                assert size == place.stop - place.start, block.kind()
    returned = jax.eval_shape(lambda: _one_step(env, params))[-1]
    listed = {item.name for item in [*agent_api.items(type(env).step), *agent_api.items(agent_api.report)]}
    assert _keys(returned, set(env.learned_roles)) == listed


def test_every_observation_is_in_one_of_those_markets():
    used = {
        block.kind()
        for overrides in (PLANTED, AUCTION)
        for role in load_config(None, overrides).market.roles
        for block in role.observations
        if role.learned
    }
    assert set(agent_api.members("observation")) == used


@pytest.mark.parametrize("kind", agent_api.members("action"))
def test_entries_fill_the_action_space(kind):
    action = agent_api.members("action")[kind]()
    space = action.space(3)
    letters = {"A": 3, "levels": getattr(action, "levels", 0), "slots": getattr(action, "slots", 0)}
    size = 1 if isinstance(space, Discrete) else len(space.sizes) if isinstance(space, MultiDiscrete) else space.size
    assert sum(item.size(**letters) for item in agent_api.items(type(action))) == size


def _one_step(env, params):
    key = jax.random.key(0)
    _, state = env.reset(key, params)
    return env.step(key, state, env.sample_actions(key), params)


def _keys(info, roles):
    """Dotted paths of a tree of dictionaries, roles left out."""
    paths = [[entry.key for entry in path] for path, _ in jax.tree_util.tree_leaves_with_path(info)]
    return {".".join(key for key in path if key not in roles) for path in paths}
