"""Where a run's numbers go while it runs: one small interface, one class per backend.

Belongs here: writing records. Does not belong here: which numbers, or pictures of them.
A further backend is a class with the three methods of `Tracker` and one entry in `BACKENDS`.
"""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

from jaxarena.core import schema
from jaxarena.experiment.files import plain, replacing


class Tracker(ABC):
    """Receives what a run measures. Steps never go backwards within one tracker."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record named numbers (or lists with one number per seed) of a step."""

    def artifact(self, path: Path) -> None:  # noqa: B027 - a backend without storage has nothing to do
        """Keep a finished file (plot, report, checkpoint) with the run."""

    def close(self) -> None:  # noqa: B027 - as above
        """Write out what is pending; nothing is logged afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


class ProgressTracker(Tracker):
    """Steps done, steps per second and time left on standard error: a bar on a terminal, plain lines elsewhere.

    Args:
        total_steps: steps of the whole run.
        start_step: steps done by an earlier, resumed run; they do not count as speed.
        shown: names of logged values to display.
        stream: where to write; default standard error.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        shown: tuple[str, ...] = (),
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._start_step, self._shown, self._clock = total_steps, start_step, shown, clock
        self._stream = sys.stderr if stream is None else stream
        self._start = clock()
        self._bar = _make_bar(self._stream) if self._stream.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=total_steps, completed=start_step, note="compiling")
            self._bar.start()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the step and the chosen values."""
        rate = (step - self._start_step) / max(self._clock() - self._start, 1e-9)
        left = (self._total - step) / rate if rate > 0 else float("inf")
        note = f"{_si(rate)} steps/s, {_duration(left)} left"
        means = {name: _mean(plain(values.get(name))) for name in self._shown}
        note += "".join(f", {name} {mean:.4g}" for name, mean in means.items() if mean is not None)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        else:
            self._stream.write(f"step {step:,} of {self._total:,} ({step / self._total:.0%}), {note}\n")
            self._stream.flush()

    def close(self) -> None:
        """Stop the bar and leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class Trackers(Tracker):
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log to every tracker, in order."""
        for tracker in self._trackers:
            tracker.log(step, values)

    def artifact(self, path: Path) -> None:
        """Hand the file to every tracker."""
        for tracker in self._trackers:
            tracker.artifact(path)

    def close(self) -> None:
        """Close every tracker, also after one of them failed."""
        errors = []
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:  # the others must still be closed
                errors.append(error)
        if errors:
            raise errors[0]


#: Makers of the backends that a configuration can name: run folder and step to resume after (or None) to tracker.
BACKENDS: dict[str, Callable[[Path, int | None], Tracker]] = {
    "jsonl": lambda folder, resume_step: JsonlTracker(folder / "metrics.jsonl", resume_step),
}


def make_trackers(names: tuple[str, ...], folder: Path, resume_step: int | None, *others: Tracker) -> Trackers:
    """All named backends (and always `jsonl`), followed by `others`, as one tracker.

    Raises:
        ValueError: a name that is not in `BACKENDS`.
    """
    check_backends(names)
    return Trackers(*(BACKENDS[name](folder, resume_step) for name in dict.fromkeys(("jsonl", *names))), *others)


def check_backends(names: tuple[str, ...], where: str = "tracking") -> None:
    """Refuse names that no backend has.

    Raises:
        ValueError: with the nearest name.
    """
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"{where}: unknown backend {name!r}; {schema.nearest(name, BACKENDS)}")


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


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _make_bar(stream: IO[str]) -> Any:
    from rich.console import Console  # noqa: PLC0415 - only where a terminal shows it
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=Console(file=stream))


def _mean(value: Any) -> float | None:
    """The number itself, or the mean over seeds; None when there is nothing to show."""
    numbers = [item for item in (value if isinstance(value, (list, tuple)) else [value]) if item is not None]
    return float(sum(map(float, numbers)) / len(numbers)) if numbers else None


def _si(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
