"""Files that are either old or new, never half: atomic writes and JSON that is always valid.

Belongs here: bytes and text on disk. Does not belong here: what they mean.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place, durably, when the block ends without an error.

    A crash or a full disk at any moment leaves the earlier content of `path` as it was. The temporary file
    (a leading dot, ending in `.part`) is removed on an error; after a power cut the next write replaces it.

    Raises:
        OSError: the disk is full, the folder is missing or not writable.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    with replacing(path) as file:
        file.write(text.encode())
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write plain data as indented JSON, atomically; see `plain` for what becomes of arrays and nan."""
    return write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Plain data from a JSON file.

    Raises:
        ValueError: the file is missing or is not JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; is {path.parent} a run folder?") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def plain(value: Any) -> Any:
    """Dicts, lists, text and numbers from arrays, paths and what has `as_dict`; nan and inf become None.

    >>> plain({"loss": np.float32(0.5), "per_seed": np.array([1.0, np.nan])})
    {'loss': 0.5, 'per_seed': [1.0, None]}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    return os.fspath(value) if isinstance(value, os.PathLike) else plain(np.asarray(value).tolist())
