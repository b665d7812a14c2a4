"""TensorBoard: event files in the run's folder, `tracking/tensorboard/`. With several seeds, one subfolder each.

Belongs here: event files. Does not belong here: serving them; `tensorboard --logdir runs` does.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from jaxarena.experiment.tracking.mirror import Memory, Mirror, Run, Sink, pictures_in
from jaxarena.experiment.tracking.values import of_seed


class Tensorboard(Mirror):
    """Event files that TensorBoard reads."""

    package: ClassVar[str] = "tensorboardX"

    @contextmanager
    def open(self, run: Run, memory: Memory) -> Iterator[Sink]:
        """Further event files; they hide what earlier ones hold of later steps than the last that is known."""
        root = run.own / "tensorboard"
        folders = [root / name for name in run.of_seeds] or [root]
        with ExitStack() as stack:
            yield _EventFiles([stack.enter_context(_event_file(folder, memory.step)) for folder in folders], run)


class _EventFiles(Sink):
    """One event file per seed, written and flushed before `send` returns, so that a full disk is noticed."""

    def __init__(self, files: list[Any], run: Run) -> None:
        from tensorboardX import summary  # noqa: PLC0415 - an optional package

        self._files, self._summary, self._step = files, summary, 0
        text = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in run.settings.items())
        for file in files:
            _write(file, summary.text("config", text), 0)
            file.flush()

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        for place, file in enumerate(self._files):
            for record in records:
                for name, value in of_seed(record, place).items():
                    _write(file, self._summary.scalar(name, value), record["step"])
            file.flush()
        self._step = records[-1]["step"]

    def finish(self, numbers: Mapping[str, float], files: Sequence[Path], *, finished: bool) -> None:
        from matplotlib.image import imread  # noqa: PLC0415 - slow to import

        first = self._files[0]  # results are those of all seeds together
        for name, value in numbers.items():
            _write(first, self._summary.scalar(name, value), self._step)
        for path in pictures_in(files):
            _write(first, self._summary.image(f"plots/{path.stem}", imread(path), dataformats="HWC"), self._step)
        first.flush()


@contextmanager
def _event_file(folder: Path, last_step: int) -> Iterator[Any]:
    from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415 - an optional package
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # the name's own time has only seconds
    try:
        start = SessionLog(status=SessionLog.START)
        file.write_event(Event(step=last_step + 1, wall_time=time.time(), session_log=start))
        yield file
    finally:
        file.close()


def _write(file: Any, summary: Any, step: int) -> None:
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415 - an optional package

    file.write_event(Event(step=step, wall_time=time.time(), summary=summary))
