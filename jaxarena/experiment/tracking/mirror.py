"""Backends that follow the folder of a run, from a thread of their own.

A mirror reads `metrics.jsonl` as it grows and sends on what is new; when the run ends it sends the results and files.
The run does not know of it: it writes its folder and never waits. A backend that fails or is slow can therefore not
stop, slow or starve a run, and it lacks nothing for long: it is tried again, and gets what it missed from the file.

Belongs here: when something is sent, and what happens when that fails. Does not belong here: how; that is a `Sink`,
one per backend.
"""

import dataclasses
import importlib.util
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from jaxarena.core import schema
from jaxarena.core.checks import expect_range
from jaxarena.core.tree import static
from jaxarena.experiment.files import read_json, write_json
from jaxarena.experiment.tracking.base import Backend
from jaxarena.experiment.tracking.jsonl import JsonlTail
from jaxarena.experiment.tracking.values import flat_numbers, flat_settings

if TYPE_CHECKING:
    from jaxarena.experiment.config import ExperimentConfig
    from jaxarena.experiment.run import RunFolder

#: Subfolder of a run that belongs to its mirrors: what they remember, and what they write on this machine.
SUBFOLDER = "tracking"
_POLL_S, _RETRY_S = 0.5, 30.0
_RECORDS_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class Run:
    """What a backend needs to know of a run to present it."""

    path: Path
    seed: int
    seeds: int
    settings: dict[str, Any]  # the configuration, flattened: `ppo.lr`

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def of_seeds(self) -> dict[str, dict[str, Any]]:
        """The settings of each seed's own run by its name, such as `seed_3`; none where the run has one seed only."""
        if self.seeds == 1:
            return {}
        return {
            f"seed_{seed}": self.settings | {"seed": seed, "seeds": 1}
            for seed in range(self.seed, self.seed + self.seeds)
        }

    @property
    def own(self) -> Path:
        """The folder of the mirrors."""
        return self.path / SUBFOLDER


class Memory:
    """What a backend must know to continue a run, kept in the run's folder: ids, and the last step that arrived."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = read_json(path) if path.is_file() else {}
        self.ids: dict[str, str] = kept.get("ids", {})
        self.step: int = kept.get("step", 0)

    def save(self) -> None:
        """Write the file anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"ids": self.ids, "step": self.step})


class Sink(ABC):
    """A run at a backend, open: with several seeds, the runs of all seeds together."""

    @abstractmethod
    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send lines of `metrics.jsonl`, oldest first; returns when they have arrived."""

    @abstractmethod
    def finish(self, numbers: Mapping[str, float], files: Sequence[Path], *, finished: bool) -> None:
        """Send the numbers of `summary.json` and files of the run, and say whether the run is finished or stopped."""


class Mirror(Backend):
    """A backend that follows the folder of a run."""

    close_s: float = static(default=30.0)  # what the end of a run waits for, at most
    package: ClassVar[str] = ""  # what must be importable
    extra: ClassVar[str] = "tracking"  # what installs it

    @abstractmethod
    def open(self, run: Run, memory: Memory) -> AbstractContextManager[Sink]:
        """Begin the run at the backend, or continue the one that `memory` knows. May take its time, and may raise."""

    def validate(self, where: str) -> None:
        """Raise ValueError for a wait that is no time."""
        expect_range(f"{where}.close_s", self.close_s, 0.0, 3600.0, "give seconds")

    def require(self, where: str) -> None:
        """Raise ValueError when the package is not installed."""
        if importlib.util.find_spec(self.package) is None:
            raise ValueError(
                f"{where}: {self.kind()!r} needs the package {self.package!r}, which is not installed; "
                f"pip install 'jaxarena[{self.extra}]', or remove it from the list"
            )


@contextmanager
def follow(config: "ExperimentConfig", folder: "RunFolder", stream: IO[str] | None = None) -> Iterator[None]:
    """Let the backends of `config.tracking` follow a run for as long as the block lasts, and send the rest at its end.

    Args:
        config: of the run.
        folder: of the run; it is only read, apart from its subfolder `tracking`.
        stream: where a warning goes, by default standard error.
    """
    run = Run(folder.path, config.seed, config.seeds, flat_settings(schema.encode(config)))
    mirrors = [backend for backend in config.tracking if isinstance(backend, Mirror)]
    followers = [Follower(mirror, run, stream) for mirror in mirrors]
    try:
        yield
    finally:
        for follower in followers:  # all at once, so that their waits overlap
            follower.end()
        for follower in followers:
            follower.close()


class Follower:
    """The thread of one backend. It warns once, whatever happens, and never raises."""

    def __init__(self, backend: Mirror, run: Run, stream: IO[str] | None = None, retry_s: float = _RETRY_S) -> None:
        self._backend, self._run, self._stream, self._retry_s = backend, run, stream, retry_s
        self._ending, self._silent = threading.Event(), threading.Lock()  # held once the one warning is given
        self._thread = threading.Thread(target=self._work, name=f"tracking-{backend.kind()}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The run has written its last file: send the rest."""
        self._ending.set()

    def close(self) -> None:
        """Wait until all is sent, at most the backend's `close_s`; what takes longer is given up."""
        self.end()
        self._thread.join(self._backend.close_s)
        if self._thread.is_alive():
            self._warn(f"has not taken everything {self._backend.close_s:g} s after the end (`close_s`)")

    def _work(self) -> None:
        while True:
            last = self._ending.is_set()
            try:
                return self._follow()
            except Exception as error:  # whatever a backend raises must not reach the run
                self._warn(f"failed ({type(error).__name__}: {_one_line(error)})")
            if last:
                return None
            self._ending.wait(self._retry_s)

    def _follow(self) -> None:
        memory = Memory(self._run.own / f"{self._backend.kind()}.json")
        tail = JsonlTail(self._run.path / "metrics.jsonl")
        with self._backend.open(self._run, memory) as sink:
            ended = False
            while not ended:
                ended = self._ending.wait(_POLL_S)  # before reading: what is read afterwards is all there is
                records = [record for record in tail.read() if record["step"] > memory.step]
                for first in range(0, len(records), _RECORDS_AT_ONCE):
                    batch = records[first : first + _RECORDS_AT_ONCE]
                    sink.send(batch)
                    memory.step = batch[-1]["step"]
                    memory.save()
            summary = self._run.path / "summary.json"
            results = read_json(summary) if summary.is_file() else {}
            sink.finish(flat_numbers(results), files_of(self._run.path), finished="eval" in results)

    def _warn(self, what: str) -> None:
        if not self._silent.acquire(blocking=False):
            return
        print(
            f"warning: tracking: {self._backend.kind()} {what}. The run goes on, and its folder has everything. "
            "What is missing there is tried again until the run ends, without a further warning; later, "
            f"python -m jaxarena.evaluate {self._run.path} sends it.",
            file=self._stream or sys.stderr,
            flush=True,
        )


def files_of(path: Path) -> list[Path]:
    """The files of a run that are worth keeping elsewhere: of the checkpoints only the last."""
    checkpoints = sorted(item for item in (path / "checkpoints").glob("*") if not item.name.startswith("."))
    skipped = {path / SUBFOLDER, *checkpoints[:-1]}

    def inside(folder: Path) -> Iterator[Path]:
        for item in sorted(folder.iterdir()):
            if item.name.startswith(".") or item in skipped:
                continue
            if item.is_dir():
                yield from inside(item)
            else:
                yield item

    return list(inside(path))


def pictures_in(files: Sequence[Path]) -> list[Path]:
    """The plots among them, in the format that backends show."""
    return [file for file in files if file.parent.name == "plots" and file.suffix == ".png"]


def _one_line(error: Exception) -> str:
    """The message of an error without line breaks, credentials of an address, and its tail."""
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", " ".join(str(error).split()))
    return text if len(text) <= 300 else f"{text[:300]} ..."
