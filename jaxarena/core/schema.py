"""Plain data (YAML, command line) to typed objects and back, with errors that help.

Belongs here: the one decoder used for components and for the experiment config.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

Decoder = typing.Callable[[type, Any, str], Any]


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: the likeliest meaning and everything that is allowed.

    >>> nearest("hestn", ["heston", "gbm"])
    "did you mean 'heston'? known: gbm, heston"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


def decode(kind: Any, value: Any, where: str) -> Any:
    """Turn plain data into a value of the annotated type `kind`.

    Handles bool, int, float, str, None, Literal, unions, tuples, lists, dicts and dataclasses.
    A class with a `decode(value, where)` class method (components) decodes itself.

    Args:
        kind: a type annotation.
        value: numbers, strings, lists and dicts, as YAML gives them.
        where: dotted path of the value, for messages.

    Raises:
        ValueError: names the path, what was got, what is allowed.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}: got {value!r}; {nearest(value, map(str, arguments))}")
        return value
    if origin in (tuple, list):
        return _decode_sequence(origin, arguments, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping, got {value!r}")
        return {str(key): decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hasattr(kind, "decode"):
        return kind.decode(value, where)
    if dataclasses.is_dataclass(kind):
        return decode_fields(typing.cast(type, kind), value, where)
    return _decode_scalar(kind, value, where)


def decode_fields(kind: type, value: Any, where: str) -> Any:
    """Build the dataclass `kind` from a mapping of its fields.

    Raises:
        ValueError: unknown or missing fields, or a field of the wrong type.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping of the fields of {kind.__name__}, got {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in settings(kind)}
    for name in value:
        if name not in fields:
            raise ValueError(f"{where}: unknown key {name!r}; {nearest(name, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ValueError(f"{where}: key {name!r} is missing; {kind.__name__} cannot do without it")
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def settings(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that a user may set: not those derived from others."""
    return [field for field in dataclasses.fields(kind) if field.init and not field.metadata.get("derived")]


def encode(value: Any) -> Any:
    """Plain data from which `decode` builds an equal value."""
    if hasattr(value, "encode") and not isinstance(value, str):
        return value.encode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in settings(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return np.asarray(value).tolist()
    return value


def _decode_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    messages = []
    for option in options:
        if option is type(None):
            continue
        try:
            return decode(option, value, where)
        except ValueError as error:
            messages.append(str(error))
    raise ValueError(messages[0])


def _decode_sequence(origin: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis and len(arguments) != len(value):
        raise ValueError(f"{where}: expected {len(arguments)} entries, got {len(value)}")
    homogeneous = origin is list or arguments[-1] is Ellipsis
    kinds = [arguments[0]] * len(value) if homogeneous else list(arguments)
    return origin(decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind in (jax.Array, np.ndarray) and isinstance(value, (jax.Array, np.ndarray)):
        return value
    name = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}.get(kind, str(kind))
    raise ValueError(f"{where}: expected {name}, got {value!r}")
