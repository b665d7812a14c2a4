"""Plain data becomes typed values, and every mistake is named with its place and its remedy."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest

from jaxarena.core.checks import expect_range, expect_shape
from jaxarena.core.schema import decode, encode, nearest


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    side: Literal["bid", "ask"] = "bid"


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    rate: float | tuple[float, ...] | None = None
    table: dict[str, int] = dataclasses.field(default_factory=dict)


GOOD = {
    "name": "x",
    "inner": {"rate": 1, "side": "ask"},
    "sizes": [1, 2.0],
    "pair": [3, 4],
    "rate": [0.1, 2],
    "table": {"a": 1},
}


def test_decoding_gives_the_annotated_types():
    outer = decode(Outer, GOOD, "run")
    assert outer == Outer("x", Inner(1.0, "ask"), (1, 2), (3, 4.0), (0.1, 2.0), {"a": 1})
    assert isinstance(outer.inner.rate, float)
    assert decode(Outer, encode(outer), "run") == outer


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 1, 1.0),
        (int, 2.0, 2),
        (bool, True, True),
        (int | None, None, None),
        (list[int], (1, 2), [1, 2]),
        (Any, {1}, {1}),
    ],
)
def test_scalars_and_sequences(kind, value, expected):
    got = decode(kind, value, "x")
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nme": 1}, r"run: unknown key 'nme'; did you mean 'name'\?"),
        ({"inner": {"rte": 1}}, r"run\.inner: unknown key 'rte'; did you mean 'rate'\?"),
        ({"inner": {"side": "asj"}}, r"run\.inner\.side: got 'asj'; did you mean 'ask'\?"),
        ({"inner": {"rate": "fast"}}, r"run\.inner\.rate: expected a number, got 'fast'"),
        ({"inner": {"rate": True}}, r"run\.inner\.rate: expected a number, got True"),
        ({"inner": 3}, r"run\.inner: expected a mapping of the fields of Inner, got 3"),
        ({"sizes": [1, 2.5]}, r"run\.sizes\[1\]: expected a whole number, got 2.5"),
        ({"sizes": [float("nan")]}, r"run\.sizes\[0\]: expected a whole number"),
        ({"sizes": 4}, r"run\.sizes: expected a list, got 4"),
        ({"pair": [1]}, r"run\.pair: expected 2 entries, got 1"),
        ({"table": {"a": "b"}}, r"run\.table\.a: expected a whole number"),
        ({"table": [1]}, r"run\.table: expected a mapping"),
        ({"name": 3}, r"run\.name: expected text, got 3"),
        ({"rate": "x"}, r"run\.rate: expected a number"),
    ],
)
def test_each_mistake_names_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        decode(Outer, GOOD | change, "run")


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="run: key 'name' is missing"):
        decode(Outer, {}, "run")


def test_nearest_lists_what_is_known():
    assert nearest("xyz", ["b", "a"]) == "known: a, b"
    assert nearest("x", []) == "known: none"


def test_arrays_encode_as_numbers():
    assert encode({"a": np.arange(3), "b": np.float32(0.5)}) == {"a": [0, 1, 2], "b": 0.5}


@pytest.mark.parametrize("bad", [-1.0, 2.0, np.nan, [0.5, np.inf]])
def test_expect_range_refuses(bad):
    with pytest.raises(ValueError, match=r"rate: got .*, allowed is 0 to 1; mind the sign"):
        expect_range("rate", bad, 0.0, 1.0, "mind the sign")


def test_checks_accept_the_bounds_and_name_wrong_shapes():
    expect_range("rate", [0.0, 1.0], 0.0, 1.0)
    expect_shape("lots", np.zeros((2, 3)), (2, 3))
    with pytest.raises(ValueError, match=r"lots: expected shape \(3,\), got \(2,\)"):
        expect_shape("lots", np.zeros(2), (3,))
