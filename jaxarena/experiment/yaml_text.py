"""YAML as people mean it: numbers are numbers, dates and tickers are text, a key appears once.

Belongs here: text to plain data and back. Does not belong here: what the data mean (`config`).
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
#: (tag, pattern, first characters), in the order in which they are tried. What matches none is text:
#: dates, `on`, `no`, `12:30` and `0005` stay what was written.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*|(?=[eE])))([eE][-+]?[0-9]+)?|[-+]?\.inf", list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """Safe loader with the scalars above and without silent overwriting of a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A dict, after a check that no key is written twice."""
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen and key_node.tag != _TAG + "merge":
                raise ValueError(f"line {line}: key {key!r} was already given in line {seen[key]}; keep one of them")
            seen[key] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the texts that `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values out: a reader should not have to look up anchors."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists under their key."""
        super().increase_indent(flow, False)


def _list_node(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    """A list without lists or mappings in it goes on one line."""
    leaf = not any(isinstance(item, (list, tuple, dict)) for item in data)
    return dumper.represent_sequence(_TAG + "seq", data, flow_style=leaf)


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}  # instead of YAML 1.1's
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(_TAG + _tag, re.compile(rf"^(?:{_pattern})\Z"), _first)
_Dumper.add_representer(list, _list_node)
_Loader.add_constructor(_TAG + "int", lambda _, node: int(node.value.replace("_", "")))


def read_yaml(text: str) -> Any:
    """Plain data from YAML text.

    Args:
        text: a YAML document. `3e-4`, `1e6` and `4_000_000` are numbers, dates are text.

    Returns:
        dicts, lists, text, numbers, true/false and None.

    Raises:
        ValueError: not YAML, or a key given twice; names the line.

    >>> read_yaml("{lr: 3e-4, steps: 4_000_000, start: 2000-03-01, symbols: [ON, NO]}")
    {'lr': 0.0003, 'steps': 4000000, 'start': '2000-03-01', 'symbols': ['ON', 'NO']}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error


def write_yaml(data: Any) -> str:
    """YAML text that `read_yaml` turns back into equal data; keys keep their order, leaf lists are on one line.

    >>> print(write_yaml({"lr": 3e-5, "day": "2000-03-01", "codes": ["1e6", "on"]}), end="")
    lr: 3.0e-05
    day: 2000-03-01
    codes: ['1e6', on]
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=110, allow_unicode=True)
