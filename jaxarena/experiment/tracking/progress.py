"""How far a run is, for the person in front of it.

Belongs here: showing steps, speed and time left. Does not belong here: keeping records.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from jaxarena.experiment.files import plain
from jaxarena.experiment.tracking.base import Tracker


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
