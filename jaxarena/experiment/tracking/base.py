"""The two interfaces of tracking: what a run reports to while it runs, and the backends that a configuration names.

Belongs here: the contracts. Does not belong here: any one backend; each has a file of its own in this package.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from jaxarena.core.component import Component


class Tracker(ABC):
    """Receives what a run measures, in the run's own thread. Steps never go backwards within one tracker."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record named numbers (or lists with one number per seed) of a step."""

    def close(self) -> None:  # noqa: B027 - a tracker that keeps nothing open has nothing to do
        """Write out what is pending; nothing is logged afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Trackers(Tracker):
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log to every tracker, in order."""
        for tracker in self._trackers:
            tracker.log(step, values)

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


class Backend(Component, family="tracker"):
    """A place where runs are followed and compared, as named under `tracking:`; its fields are its settings.

    None of them is a password or token. Those come from the backend's own environment variables, so that no file of
    a run can hold one.
    """

    def validate(self, where: str) -> None:
        """Raise ValueError for a setting that makes no sense, or that holds a secret."""

    def require(self, where: str) -> None:
        """Raise ValueError when the backend's package is not installed; names the extra that installs it."""


def validate_backends(backends: Sequence[Backend], where: str = "tracking") -> None:
    """Check every backend's settings, and that none is named twice.

    Raises:
        ValueError: for the first mistake.
    """
    seen: set[str] = set()
    for place, backend in enumerate(backends):
        backend.validate(f"{where}[{place}]")
        if backend.kind() in seen:
            raise ValueError(f"{where}[{place}]: {backend.kind()!r} is named twice; keep one of them")
        seen.add(backend.kind())


def require_backends(backends: Sequence[Backend], where: str = "tracking") -> None:
    """Check that every backend's package is installed, before a run begins.

    Raises:
        ValueError: one is missing; names the extra that installs it.
    """
    for place, backend in enumerate(backends):
        backend.require(f"{where}[{place}]")
