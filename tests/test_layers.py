"""Imports go one way only, and `import jaxarena` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: For each layer, what else it may import. A layer may always import itself.
_LIBRARY = {"core", "market", "agents", "env", "learn", "data", "experiment", "registry"}
ALLOWED = {
    "core": set(),
    "market": {"core"},
    "agents": {"core", "market"},
    "env": {"core", "market", "agents"},
    "learn": {"core", "market", "agents", "env"},
    "data": {"core"},
    "experiment": {"core", "market", "agents", "env", "learn", "data"},
    "registry": {"core", "market", "agents", "env", "learn", "data", "experiment"},
    "command": set(),
    **{name: _LIBRARY | {"command"} for name in ("train", "evaluate", "compare", "report", "list", "export", "verify")},
    "completion": _LIBRARY | {"command", "__main__"},
    "__init__": {"registry", "learn"},
    "__main__": _LIBRARY | {"command", "__init__"},  # of the package, and of a folder that is a command
}
#: `__init__` is `jaxarena.make`, which a bridge calls as its users would; `learn` for the one collector and its losses.
BRIDGES = {"core", "env", "learn", "__init__"}
HEAVY = ["polars", "matplotlib", "rich", "gymnax", "orbax", "ray", "torch", "yaml"]


def imported_modules(path, package):
    """Absolute names of everything that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer_of(module):
    """The layer of `jaxarena.<layer>…`, or None for anything else."""
    parts = module.split(".")
    if parts[0] != "jaxarena":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else "__init__"


def wrong_arrows(root):
    found = []
    for path in sorted((root / "jaxarena").rglob("*.py")):
        relative = path.relative_to(root).with_suffix("")
        layer = relative.parts[-1] if relative.name == "__main__" else relative.parts[1]
        if layer not in ALLOWED:
            found.append(f"{path}: unknown layer {layer}")
            continue
        package = ".".join(relative.parts[:-1])
        targets = {layer_of(module) for module in imported_modules(path, package)} - {None, layer}
        found += [f"{path.relative_to(root)}: {layer} -> {target}" for target in targets - ALLOWED[layer]]
    return found


def test_no_arrow_points_the_wrong_way():
    assert wrong_arrows(ROOT) == []


def test_bridges_import_what_a_user_could():
    for path in sorted((ROOT / "bridges").rglob("*.py")):
        is_command_line = '__name__ == "__main__"' in path.read_text()
        allowed = BRIDGES | ({"experiment", "registry", "train", "command"} if is_command_line else set())
        targets = {layer_of(module) for module in imported_modules(path, "bridges")} - {None}
        assert targets <= allowed, f"{path}: {targets - allowed}"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("core/money.py", "from jaxarena.market import ledger"),
        ("market/dealer.py", "import jaxarena.env.env"),
        ("env/env.py", "def f():\n    from ..learn import ppo"),
        ("data/bars.py", "from jaxarena.market.history import Recording"),
        ("learn/ppo.py", "from jaxarena import make"),
        ("novelty/x.py", "import jax"),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path, name, line):
    file = tmp_path / "jaxarena" / name
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert len(wrong_arrows(tmp_path)) == 1


def test_importing_the_package_loads_nothing_heavy():
    program = f"import sys, jaxarena; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
