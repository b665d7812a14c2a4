"""MLflow: a SQLite store beside the run's folder, or a server. With several seeds, a parent run with one child each.

Belongs here: a run as MLflow's client writes it. Does not belong here: its server; `mlflow server` and `mlflow ui`.
"""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from jaxarena.core.tree import static
from jaxarena.experiment.tracking.mirror import Memory, Mirror, Run, Sink
from jaxarena.experiment.tracking.values import of_seed, over_seeds

_STEP = "step"  # a metric sent with every step's last numbers, in one transaction: the step has arrived when it has
_MAX_METRICS, _MAX_PARAMS, _MAX_TEXT = 1000, 100, 6000  # of one request, and of a value; MLflow's own limits


class Mlflow(Mirror):
    """A run in an MLflow experiment.

    User name, password and token come from `MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD` and
    `MLFLOW_TRACKING_TOKEN`.
    """

    uri: str | None = static(default=None)  # None: MLFLOW_TRACKING_URI, or mlflow.db beside the run's folder
    experiment: str | None = static(default=None)  # None: MLFLOW_EXPERIMENT_NAME, or jaxarena
    package: ClassVar[str] = "mlflow"

    def validate(self, where: str) -> None:
        """Raise ValueError for an address that carries credentials: it would end in the run's files."""
        super().validate(where)
        parts = urlsplit(self.uri or "")
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                f"{where}.uri: the address of {parts.hostname or 'a store'} carries a user, password or query, which "
                "every file of the run would show; give the bare address, and credentials in the environment variables "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN (or the whole address "
                "in MLFLOW_TRACKING_URI)"
            )

    @contextmanager
    def open(self, run: Run, memory: Memory) -> Iterator[Sink]:
        """The run of an earlier session where `memory` knows it, otherwise a new one."""
        for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "20")):  # the thread tries again by itself
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        from mlflow import MlflowClient  # noqa: PLC0415 - an optional package

        for name in ("alembic", "mlflow.store.db.utils"):  # they announce each of dozens of migrations
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.resolve().parent}/mlflow.db"
        client = MlflowClient(tracking_uri=uri)
        experiment = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "jaxarena"
        yield _MlflowRuns(client, _experiment_id(client, experiment, uri), run, memory)


class _MlflowRuns(Sink):
    """The run, or the parent and its children; the first is the parent."""

    def __init__(self, client: Any, experiment: str, run: Run, memory: Memory) -> None:
        self._client, self._experiment, self._memory, self._path = client, experiment, memory, run.path
        own = {"mlflow.runName": run.name, "mlflow.source.name": "jaxarena", "mlflow.source.type": "LOCAL"}
        self._ids = [self._continue("run", own, run.settings)]
        for name, settings in run.of_seeds.items():
            tags = own | {"mlflow.runName": f"{run.name}_{name}", "mlflow.parentRunId": self._ids[0]}
            self._ids.append(self._continue(name, tags, settings))
        self._steps = [self._last_step(run_id) for run_id in self._ids]
        memory.step = min(self._steps)  # the store knows better than the run's folder

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        for place, run_id in enumerate(self._ids):
            metrics: list[Any] = []
            for record in (record for record in records if record["step"] > self._steps[place]):
                values = over_seeds(record) if place == 0 else of_seed(record, place - 1)
                step = _metrics(values | {_STEP: record["step"]}, record["step"])
                if len(metrics) + len(step) > _MAX_METRICS:
                    self._log(run_id, metrics)
                    metrics = []
                metrics += step
            self._log(run_id, metrics)
            self._steps[place] = records[-1]["step"]

    def finish(self, numbers: Mapping[str, float], files: Sequence[Path], *, finished: bool) -> None:
        self._log(self._ids[0], _metrics(numbers, self._steps[0]))
        for file in files:
            inside = file.relative_to(self._path).parent.as_posix()
            self._client.log_artifact(self._ids[0], str(file), None if inside == "." else inside)
        for run_id in self._ids:
            self._client.update_run(run_id, status="FINISHED" if finished else "KILLED")

    def _continue(self, name: str, tags: dict[str, str], settings: Mapping[str, Any]) -> str:
        """The id of the run that is known by `name`, made when there is none; running, with all its params."""
        from mlflow.entities import Param  # noqa: PLC0415 - an optional package

        if name not in self._memory.ids:
            created = self._client.create_run(self._experiment, tags=tags, run_name=tags["mlflow.runName"])
            self._memory.ids[name] = created.info.run_id
            self._memory.save()
        run_id = self._memory.ids[name]
        self._client.update_run(run_id, status="RUNNING")
        there = self._client.get_run(run_id).data.params
        params = [
            Param(_allowed(key), str(value)[:_MAX_TEXT])
            for key, value in settings.items()
            if _allowed(key) not in there
        ]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _MAX_PARAMS])
        return run_id

    def _last_step(self, run_id: str) -> int:
        return int(self._client.get_run(run_id).data.metrics.get(_STEP, 0))

    def _log(self, run_id: str, metrics: Sequence[Any]) -> None:
        for first in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric  # noqa: PLC0415 - an optional package

    now = int(time.time() * 1000)
    return [Metric(_allowed(name), value, now, step) for name, value in values.items()]


def _experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment of that name, made when there is none; the files of a local store lie beside it."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = uri.startswith("sqlite:///")
    files = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=files))


def _allowed(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w. :/-]", "_", name)
