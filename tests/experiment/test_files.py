import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.experiment.files import plain, read_json, replacing, write_json, write_text


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")

    def fail():
        with replacing(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_the_old_file_is_whole_while_the_new_one_is_written(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_json_is_strict_and_holds_arrays(tmp_path):
    class Point:
        def as_dict(self):
            return {"x": 2.0}

    data = {
        "nan": float("nan"),
        "array": jnp.arange(3),
        "scalar": np.float32(0.5),
        "infinite": np.array([1.0, np.inf]),
        "path": Path("a/b"),
        "point": Point(),
        "flag": np.bool_(True),
        1: (1, None),
    }
    path = write_json(tmp_path / "a.json", data)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "nan": None,
        "array": [0, 1, 2],
        "scalar": 0.5,
        "infinite": [1.0, None],
        "path": "a/b",
        "point": {"x": 2.0},
        "flag": True,
        "1": [1, None],
    }
    assert read_json(path) == plain(data)


def test_unreadable_json_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    write_text(tmp_path / "a.json", "{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
