"""Weights & Biases: offline by default, in the run's folder, to be sent later by `wandb sync`. With several seeds, one
group with one run each.

Belongs here: a run as W&B's client writes it. Does not belong here: accounts and tokens; `wandb login` keeps those.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxarena.core.tree import static
from jaxarena.experiment.tracking.mirror import Memory, Mirror, Run, Sink, pictures_in
from jaxarena.experiment.tracking.values import of_seed


class Wandb(Mirror):
    """A run in a W&B project, or a group of one run per seed."""

    project: str | None = static(default=None)  # None: WANDB_PROJECT, or jaxarena
    entity: str | None = static(default=None)  # None: WANDB_ENTITY, or the account's own
    mode: Literal["offline", "online"] = static(default="offline")
    package: ClassVar[str] = "wandb"

    @contextmanager
    def open(self, run: Run, memory: Memory) -> Iterator[Sink]:
        """The runs with the ids that `memory` knows, or with new ones."""
        group = run.name if run.of_seeds else None
        settings = run.of_seeds or {"run": run.settings}
        for name in settings:
            memory.ids.setdefault(name, secrets.token_hex(4))
        memory.save()
        runs: list[Any] = []
        try:
            for name, values in settings.items():
                title = f"{run.name}_{name}" if group else run.name
                runs.append(self._init(run.own, memory.ids[name], title, group, values))
            yield _WandbRuns(runs, run.path)
        finally:
            for opened in runs:
                opened.finish()

    def _init(self, own: Path, run_id: str, title: str, group: str | None, settings: dict[str, Any]) -> Any:
        import wandb  # noqa: PLC0415 - an optional package

        return wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or "jaxarena",
            entity=self.entity,
            mode=self.mode,
            dir=str(own),
            id=run_id,
            name=title,
            group=group,
            config=settings,
            resume="allow",
            reinit="create_new",
            settings=self._settings(),
        )

    def _settings(self) -> Any:
        """Quiet, and with an end: a process waits for W&B's own process, which by default tries for hours.

        What belongs to the working folder, its Git remote and code, is not the run's.
        """
        import wandb  # noqa: PLC0415 - an optional package

        limit_s = max(1.0, 0.8 * self.close_s)  # 0 would mean without limit
        return wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            init_timeout=limit_s,
            finish_timeout=limit_s,
            finish_timeout_raises=True,
        )


class _WandbRuns(Sink):
    """One run per seed. W&B drops a step that is not later than the last one it has."""

    def __init__(self, runs: Sequence[Any], path: Path) -> None:
        self._runs, self._path = runs, path

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        for place, run in enumerate(self._runs):
            for record in records:
                run.log(of_seed(record, place), step=record["step"])

    def finish(self, numbers: Mapping[str, float], files: Sequence[Path], *, finished: bool) -> None:
        """Numbers are those of all seeds together and stand in every run; files go to the first."""
        import wandb  # noqa: PLC0415 - an optional package

        for run in self._runs:
            run.summary.update(dict(numbers))
        first = self._runs[0]
        if plots := pictures_in(files):
            first.log({f"plots/{file.stem}": wandb.Image(str(file)) for file in plots})
        for file in files:  # copied, so that the folder can be sent from elsewhere
            copy = Path(first.dir) / file.relative_to(self._path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            first.save(str(copy), base_path=first.dir, policy="now")
