import math

import pytest

from jaxarena.experiment.yaml_text import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e6", 1e6),
        ("-1.5E+2", -150.0),
        (".5", 0.5),
        ("1_000.5", 1000.5),
        ("4_000_000", 4_000_000),
        ("-7", -7),
        ("0", 0),
        (".inf", math.inf),
        ("true", True),
        ("null", None),
        ("", None),
        ("2000-03-01", "2000-03-01"),
        ("0005", "0005"),
        ("12:30", "12:30"),
        ("no", "no"),
        ("on", "on"),
        ("e5", "e5"),
        ("'1e6'", "1e6"),
    ],
)
def test_scalars_are_what_people_mean(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x:\n  a: 1\n  a: 1", "[{a: 1, a: 2}]"])
def test_a_repeated_key_is_refused_with_both_lines(text):
    with pytest.raises(ValueError, match=r"line \d+: key 'a' was already given in line \d+"):
        read_yaml(text)


def test_broken_text_names_the_line():
    with pytest.raises(ValueError, match=r"line 2.*not valid YAML"):
        read_yaml("a: [1,\nb: }")


def test_merge_keys_work():
    assert read_yaml("base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}")["mine"] == {"x": 1, "y": 3}


def test_round_trip_of_everything_that_could_be_misread():
    data = {
        "floats": [3e-4, 1e-300, 1e22, 0.1, 5.0, math.inf, -math.inf],
        "texts": [
            "1e6",
            "2000-03-01",
            "0005",
            "null",
            "true",
            "on",
            "12:30",
            "~",
            "",
            "4_000",
            ".5",
            "<<",
            "a: b",
            "ü",
        ],
        "nested": [{"a": [1, {"b": None}]}, [[1, 2], [3]]],
        "empty": [{}, []],
    }
    assert read_yaml(write_yaml(data)) == data


def test_repeated_objects_are_written_out():
    shared = [1, 2]
    assert "&" not in write_yaml({"a": shared, "b": shared})
