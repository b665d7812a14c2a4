"""Where a run's numbers go: `metrics.jsonl` always, progress on the terminal, and the backends that a config names.

A backend is one file of this package with one subclass of `Mirror` (how to begin or continue a run there, and how to
send to it); it is found by its name. One outside the package is named by its path, `kind: "my_module:MyBackend"`.
"""

import importlib
import pkgutil

from jaxarena.experiment.tracking.base import Backend, Tracker, Trackers, require_backends, validate_backends
from jaxarena.experiment.tracking.jsonl import Jsonl, JsonlTracker, read_jsonl
from jaxarena.experiment.tracking.mirror import Memory, Mirror, Run, Sink, follow
from jaxarena.experiment.tracking.progress import ProgressTracker

__all__ = [
    "Backend",
    "Jsonl",
    "JsonlTracker",
    "Memory",
    "Mirror",
    "ProgressTracker",
    "Run",
    "Sink",
    "Tracker",
    "Trackers",
    "follow",
    "read_jsonl",
    "require_backends",
    "validate_backends",
]

for _module in pkgutil.iter_modules(__path__):  # a file here is a backend: importing it registers its class
    importlib.import_module(f"{__name__}.{_module.name}")
