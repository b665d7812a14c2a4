"""The documentation's own code: what every bridge's tests do with its page."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "bridges"


def python_blocks(name):
    """Compiled python blocks of a page, in order."""
    text = (PAGES / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [compile(block, f"{name}, python block {number}", "exec") for number, block in enumerate(blocks, start=1)]


def run_page(name):
    """The names that a page's blocks leave behind, pasted one after the other."""
    space = {}
    for block in python_blocks(name):
        exec(block, space)
    return space


def assert_extra_is_named(monkeypatch, bridge, missing, extra):
    """Importing a bridge without its package says which extra installs it."""
    monkeypatch.setitem(sys.modules, missing, None)
    spec = importlib.util.spec_from_file_location("again", bridge.__file__)
    with pytest.raises(ImportError, match=rf"pip install 'jaxarena\[{extra}\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
