"""Families of named, exchangeable parts.

A component is a frozen pytree whose fields are its parameters. Every concrete class registers
itself in its family under `snake_case(name)`, and YAML reads `process: {kind: heston, kappa: 2.0}`.
A class outside the package is reached with `kind: "package.module:Class"`.
"""

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxarena.core import schema
from jaxarena.core.tree import Record

_FAMILIES: dict[str, type["Component"]] = {}


class Component(Record):
    """A named part of a market or of its decision problem.

    A direct subclass with `family="..."` opens a family and states its contract; its concrete
    subclasses are the members. Names that start with an underscore, and classes with abstract
    methods left, are not members.

    >>> class Rule(Component, family="rule"): pass
    >>> class FixedRule(Rule):
    ...     level: float = 1.0
    >>> Rule.decode({"kind": "fixed_rule", "level": 2}, "rule")
    FixedRule(level=2.0)
    """

    family: ClassVar[str] = ""
    members: ClassVar[dict[str, type["Component"]]] = {}

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family, cls.members = family, {}
            _FAMILIES[family] = cls
        elif not cls.__name__.startswith("_") and not _is_abstract(cls):
            cls.members[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """The member's name in YAML: `snake_case(class name)`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @classmethod
    def decode(cls, value: Any, where: str) -> Self:
        """Build a member of this family from its name or from `{kind: name, field: value, ...}`.

        Raises:
            ValueError: unknown kind, unknown field, wrong type; with the nearest valid name.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping) or "kind" not in value:
            raise ValueError(
                f"{where}: expected the name of a {cls.family} or a mapping with 'kind', got {value!r}; "
                f"{schema.nearest('', cls.members)}"
            )
        member = cls._find(value["kind"], where)
        fields = {key: item for key, item in value.items() if key != "kind"}
        return schema.decode_fields(member, fields, where)

    def encode(self) -> dict[str, Any]:
        """Plain data from which `decode` builds an equal component."""
        kind = self.kind()
        home = _FAMILIES[self.family].__module__.partition(".")[0]
        if type(self).__module__.partition(".")[0] != home or self.members.get(kind) is not type(self):
            kind = f"{type(self).__module__}:{type(self).__qualname__}"
        fields = {field.name: getattr(self, field.name) for field in schema.settings(self)}
        return {"kind": kind} | {name: schema.encode(value) for name, value in fields.items()}

    @classmethod
    def _find(cls, kind: str, where: str) -> type[Self]:
        if not isinstance(kind, str):
            raise ValueError(f"{where}: 'kind' must be text, got {kind!r}; {schema.nearest('', cls.members)}")
        if ":" in kind:
            module, _, name = kind.partition(":")
            try:
                found = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"{where}: cannot load {kind!r} ({error}); write 'package.module:Class' of an importable module"
                ) from error
            if not (inspect.isclass(found) and issubclass(found, cls)):
                raise ValueError(f"{where}: {kind!r} is not a {cls.family}; subclass {cls.__module__}.{cls.__name__}")
            return found
        if kind not in cls.members:
            raise ValueError(f"{where}: unknown {cls.family} {kind!r}; {schema.nearest(kind, cls.members)}")
        return cls.members[kind]  # type: ignore[return-value]


def families() -> dict[str, type[Component]]:
    """Every family that is imported, by name."""
    return dict(_FAMILIES)


def _is_abstract(cls: type) -> bool:
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in dir(cls))
