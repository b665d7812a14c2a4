"""What there is to choose from: the members of every family of parts, presets, configurations and settings.

Belongs here: reading names, meanings and fields off the classes and files themselves, so that nothing has to be kept
up to date by hand. Does not belong here: showing them (`jaxarena.list`).
"""

import ast
import dataclasses
import functools
import importlib.resources
import inspect
import io
import itertools
import re
import textwrap
import tokenize
import typing
from pathlib import Path
from typing import Any

from jaxarena.core import schema
from jaxarena.core.component import Component, families
from jaxarena.experiment.config import ExperimentConfig, preset_ids, shipped_configs

_WHOLE = "experiment"  # the name under which the configuration's own keys stand
_EACH = "N"  # the number of an item, as in market.roles.N.cash


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a part, or one key of a configuration."""

    name: str
    type: str
    default: Any  # plain data; None with `required` where there is none
    required: bool
    static: bool  # decides shapes or code, so another value compiles anew
    meaning: str  # may be empty


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that has a name."""

    family: str
    name: str
    meaning: str  # one line
    text: str  # all that its author says of it
    settings: tuple[Setting, ...] = ()
    home: str = ""  # module and class, or file


def catalogue() -> dict[str, list[Entry]]:
    """Everything by family, families in alphabetical order, then presets, configurations and settings.

    >>> [entry.name for entry in catalogue()["impact"]]
    ['linear_impact', 'square_root_impact']
    """
    parts = {
        name: [_of_class(name, kind, member) for kind, member in sorted(family.members.items()) if _is_ours(member)]
        for name, family in sorted(families().items())
    }
    presets = importlib.resources.files("jaxarena") / "presets"
    return {name: entries for name, entries in parts.items() if entries} | {
        "preset": [_of_file("preset", Path(str(presets / f"{name}.yaml"))) for name in preset_ids()],
        "config": [_of_file("config", path) for path in shipped_configs()],
        "setting": _sections(),
    }


def find(family: str, name: str | None = None) -> list[Entry]:
    """The members of a family, or the one that is named.

    Raises:
        ValueError: an unknown family or name; with the nearest one.
    """
    everything = catalogue()
    if family not in everything:
        raise ValueError(f"unknown family {family!r}; {schema.nearest(family, everything)}")
    entries = everything[family]
    if name is None:
        return entries
    names = {entry.name: entry for entry in entries}
    if name not in names:
        raise ValueError(f"unknown {family} {name!r}; {schema.nearest(name, names)}")
    return [names[name]]


def setting_keys() -> list[str]:
    """Dotted keys of settings that every configuration has: `seed`, `ppo.lr`, `market.financing.borrow_rate`, ..."""
    return [
        setting.name if entry.name == _WHOLE else f"{entry.name}.{setting.name}"
        for entry in _sections()
        if _EACH not in entry.name
        for setting in entry.settings
    ]


def _is_ours(member: type[Component]) -> bool:
    """Whether a class may be named by its kind alone: a public one of this package."""
    public = all(not part.startswith("_") for part in (*member.__module__.split("."), member.__name__))
    return public and member.__module__.partition(".")[0] == __name__.partition(".")[0]


def _of_class(family: str, name: str, kind: type) -> Entry:
    text = inspect.getdoc(kind) or ""
    return Entry(family, name, _first_sentence(text), text, _settings(kind), f"{kind.__module__}:{kind.__name__}")


def _of_file(family: str, path: Path) -> Entry:
    """A YAML file, described by the comment that it begins with."""
    content = path.read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), content.splitlines())
    meaning = _first_sentence("\n".join(line.removeprefix("#").strip() for line in comment))
    return Entry(family, path.stem, meaning, content, home=path.name)


def _sections(kind: type = ExperimentConfig, path: str = "") -> list[Entry]:
    """The configuration's own keys, then those of its sections and of what is in them, named by their dotted path."""
    found = [_of_class("setting", path or _WHOLE, kind)]
    hints = typing.get_type_hints(kind)
    for field in schema.settings(kind):
        for inner, below in _records_in(hints[field.name], f"{path}.{field.name}".lstrip(".")):
            found += _sections(inner, below)
    return found


def _records_in(hint: Any, path: str) -> list[tuple[type, str]]:
    """The records that a field holds, itself or as items; parts are left out, they are families of their own."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [] if issubclass(hint, Component) else [(hint, path)]
    below = f"{path}.{_EACH}" if typing.get_origin(hint) in (tuple, list) else path
    return [found for inner in typing.get_args(hint) for found in _records_in(inner, below)]


def _settings(kind: type) -> tuple[Setting, ...]:
    if not dataclasses.is_dataclass(kind):
        return ()
    comments = field_comments(kind)
    found = []
    for field in schema.settings(kind):
        required, default = _default(field)
        kind_name = field.type if isinstance(field.type, str) else _type_name(field.type)
        static = bool(field.metadata.get("static"))
        found.append(Setting(field.name, kind_name, default, required, static, comments.get(field.name, "")))
    return tuple(found)


def _default(field: "dataclasses.Field[Any]") -> tuple[bool, Any]:
    """Whether a value must be given, and the default as plain data."""
    if field.default is not dataclasses.MISSING:
        return False, schema.encode(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return False, schema.encode(field.default_factory())
    return True, None


def _type_name(hint: Any) -> str:
    """A type as its author wrote it, without modules."""
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


@functools.cache
def field_comments(kind: type) -> dict[str, str]:
    """What stands behind `#` on the line of each field, in the class or one that it inherits from.

    >>> from jaxarena.experiment.config import TrainConfig
    >>> field_comments(TrainConfig)["markets"]
    'markets stepped together, per seed'
    """
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.partition(".")[0] == "jaxarena" and dataclasses.is_dataclass(owner):
            found |= _comments_in(textwrap.dedent(inspect.getsource(owner)))
    return found


def _comments_in(source: str) -> dict[str, str]:
    """Names of annotated fields of the class in `source` to the comments on their last lines."""
    (parsed,) = ast.parse(source).body
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    body = parsed.body if isinstance(parsed, ast.ClassDef) else []
    return {
        node.target.id: comments[node.end_lineno].lstrip("# ")
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in comments
    }


def _first_sentence(text: str) -> str:
    """Up to the first full stop or blank line, on one line."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.])[.](?= [A-Z`]|$)", paragraph)[0]
