"""`metrics.jsonl`: the record of a run that everything else is made from.

Belongs here: writing and reading that file. Does not belong here: what the numbers mean.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxarena.experiment.files import plain, replacing
from jaxarena.experiment.tracking.base import Backend, Tracker


class Jsonl(Backend):
    """The file `metrics.jsonl`. Always written; here so that a configuration can name it."""


class JsonlTracker(Tracker):
    """One JSON object per line in `metrics.jsonl`, written and flushed at once, so that a kill loses nothing.

    Opened for a resumed run it drops a torn last line and all records after the checkpoint's step, which the
    run is about to write again: every step appears once.

    Args:
        path: the file; made if it is missing.
        resume_step: last step to keep; None starts the file anew.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.path = Path(path)
        kept = [] if resume_step is None else [record for record in read_jsonl(path) if record["step"] <= resume_step]
        with replacing(self.path) as file:
            file.writelines(_line(record) for record in kept)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one record; nan and inf are written as null.

        Raises:
            OSError: the disk is full; the file ends with the record before.
        """
        line = _line({"step": int(step), **plain(dict(values))})
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            while line:  # a signal or a filling disk can cut a write short
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            os.ftruncate(self._descriptor, end)  # leave no half line for later records to stick to
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file, without a torn last line; empty when there is no file.

    Raises:
        ValueError: a line other than the last is not JSON.
    """
    if not Path(path).exists():
        return []
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is damaged ({error}); restore or delete the line") from error
    return records


class JsonlTail:
    """What was added to a JSONL file since it was last asked.

    When the file was replaced meanwhile (a resumed run writes it anew), it is read from its beginning once more.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._inode = path, 0, 0

    def read(self) -> list[dict[str, Any]]:
        """New records, without a line that is not complete yet; none while there is no file."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
