"""What README.md says is true: its code runs, its commands exist, the names in its tables are registered."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import jaxarena
from jaxarena.core.component import families
from jaxarena.data.sources import load
from jaxarena.experiment.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(program):
    """Arguments of every call of a program in the bash blocks."""
    parts = [part for block in blocks("bash") for line in block.splitlines() for part in line.split("&&")]
    words = [shlex.split(part) for part in parts]
    return [tail for head, *tail in words if Path(head).name == program]


def table(heading):
    """Cells of the rows of the table with this first heading."""
    rows = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert rows, f"README has no table that begins with {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1].splitlines()]


def test_python_blocks_run_in_order():
    """As a reader would paste them, one after the other. Takes half a minute, nearly all of it compiling."""
    space = {}
    for number, block in enumerate(blocks("python"), start=1):
        exec(compile(block, f"README.md, python block {number}", "exec"), space)
        if number == 1:
            assert space["obs"]["trader"].shape == (8, 149)
            assert space["env"].audit(space["state"], space["params"]) == (0, [0, 0, 0])
        if number == 2:
            assert space["rewards"].shape == (1000, 50)
        if number == 3:
            assert space["rewards"].shape == (50,)
        if number == 4:
            assert 0.004 < space["earned"] < 0.007
        if number == 5:
            assert space["env"].asset_names == ("IBM",)
    assert number == 5


def test_commands_call_modules_that_exist():
    calls = commands("python")
    modules = {arguments[1] for arguments in calls if arguments[0] == "-m"}
    assert all(arguments[0] == "-m" for arguments in [*calls, *commands("python3")])
    assert {"jaxarena.train", "jaxarena.evaluate", "pytest"} <= modules
    assert all(importlib.util.find_spec(module) for module in modules)
    for module in re.findall(r"`python -m ([\w.]+)", README):
        assert importlib.util.find_spec(module), module


def test_the_two_first_commands_are_the_ones_that_the_checks_run():
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert first.endswith("-m jaxarena.train")
    assert '".[dev]"' in second
    assert "-m pytest" in second


def test_commands_name_configs_and_settings_that_load():
    for arguments in commands("python"):
        settings = arguments[2:]
        if arguments[1] != "jaxarena.train" or "--resume" in settings:
            continue
        files = [word for word in settings if "=" not in word] or ["configs/default.yaml"]
        overrides = [word for word in settings if "=" in word]
        path = None if any(word.startswith("preset=") for word in overrides) else ROOT / files[0]
        config = load_config(path, overrides)
        assert config.market.roles


def test_installed_extras_exist():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pages = README + "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r'pip install "\.\[(\w+)\]"', pages)) | {row[2].strip("`") for row in table("ecosystem")}
    assert {"rllib", "sb3", "jaxmarl"} <= named
    for extra in named:
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_blocks_are_configurations(block, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(block, encoding="utf-8")
    config = load_config(path)
    assert set(config.groups) == {"fund"}


def test_the_csv_example_is_read(tmp_path):
    example = next(block for block in blocks("text") if block.startswith("date,symbol"))
    path = tmp_path / "my_bars.csv"
    path.write_text(example, encoding="utf-8")
    assert load(path).symbols == ("XYZ",)


def test_every_part_in_the_table_is_registered():
    rows = table("family")
    assert [family for family, _ in rows if family not in families()] == []
    assert len(rows) >= 9
    for family, names in rows:
        members = re.findall(r"`(\w+)`", names)
        assert members
        assert set(members) <= set(families()[family].members), family


def test_presets_in_the_table_are_those_that_come_with_the_package():
    named = {row[0].strip("`") for row in table("preset")}
    assert named == {path.stem for path in (ROOT / "jaxarena" / "presets").glob("*.yaml")}
    assert named <= set(jaxarena.registered())


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
