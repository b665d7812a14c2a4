"""Train the learned roles of a market together, evaluate them on unseen years, and leave a report.

Belongs here: the command line, its exit codes and signals. Does not belong here: anything a library user could want
(`jaxarena.experiment`).
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jaxarena.command import BAD_INPUT, FAILED, INTERRUPTED, OK, Parser, fail, say

if TYPE_CHECKING:
    from jaxarena.experiment.run import RunFolder
    from jaxarena.experiment.training import Trainer

_EPILOG = """\
examples:
  jaxarena train                                  the default market: three learned roles on stock bars
  jaxarena train configs/smoke.yaml               a minute of the same, to see that all works
  jaxarena train ppo.lr=1e-4 seed=7               settings of the configuration, changed here
  jaxarena train market.roles.0.count=8 run_dir=/tmp/x
  jaxarena train preset=Gbm-v0 train.agent_steps=1e6    a preset market instead of a file
  jaxarena train --resume runs/default__s0__20300101-120000

A run leaves a folder (printed first; choose it with run_dir=PATH) with config.yaml, meta.json, metrics.jsonl,
summary.json, checkpoints/, plots/ and report.html. Ctrl-C saves the state and stops; a resumed run, even a killed one,
gives the same numbers as one that never stopped. Every setting is in the run's config.yaml.

exit codes: 0 done, 1 failed in mid-run (the message says how to go on), 2 bad input, 130 stopped by Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    command = None if arguments is None else ["python", "-m", "jaxarena.train", *arguments]
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed
    from jaxarena.experiment.tracking import follow  # noqa: PLC0415

    again = ""
    try:
        trainer, folder = _open(options, command)
        if trainer is None:
            return OK
        again = f"; go on with: python -m jaxarena.train --resume {folder.path}"
        with follow(trainer.config, folder):
            return _run(trainer, folder, resume=options.resume is not None, again=again)
    except ValueError as error:
        return fail(f"error: {error}", BAD_INPUT)
    except CheckpointError as error:
        return fail(f"error: {error}{again}", FAILED)
    except OSError as error:
        return fail(f"error: cannot write the run's files: {error}; free some space{again}", FAILED)
    except KeyboardInterrupt:
        return fail(f"stopped{again}", INTERRUPTED)


def find_config(name: str) -> Path:
    """The file that is meant: a path, or the name of a configuration that comes with the package.

    >>> find_config("smoke").name
    'smoke.yaml'
    """
    path = Path(name)
    if path.is_file() or path.parent.name not in ("", "configs"):
        return path
    from jaxarena.experiment.config import shipped_configs  # noqa: PLC0415 - after --help, for speed

    return next((shipped for shipped in shipped_configs() if shipped.stem == path.stem), path)


def parser() -> Parser:
    """The options of the command."""
    made = Parser(
        prog="jaxarena train",
        description="Train the learned roles of a market together, evaluate them on unseen years, and write a report.",
        epilog=_EPILOG,
    )
    made.add_argument(
        "settings", nargs="*", metavar="CONFIG.yaml | key.path=value", help="a file, and settings laid over it"
    )
    made.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, as it was configured")
    return made


def _open(options: argparse.Namespace, command: list[str] | None) -> "tuple[Trainer | None, RunFolder]":
    """The learner and folder of a new or resumed run; no learner when there is nothing left to do.

    Everything is built before a folder is made, so that bad input leaves nothing behind.

    Raises:
        ValueError: bad input.
    """
    from jaxarena.experiment.config import load_config  # noqa: PLC0415
    from jaxarena.experiment.evaluate import check_evaluation  # noqa: PLC0415
    from jaxarena.experiment.results import is_finished  # noqa: PLC0415
    from jaxarena.experiment.run import create_run, open_run, read_run  # noqa: PLC0415
    from jaxarena.experiment.tracking import require_backends  # noqa: PLC0415
    from jaxarena.experiment.training import Trainer  # noqa: PLC0415

    if options.resume is None:
        config = load_config(*sources(options.settings))
        require_backends(config.tracking)
        trainer = Trainer(config)
        check_evaluation(config)
        return trainer, create_run(config, command)
    if options.settings:
        raise ValueError(
            f"--resume goes on with the run's own config.yaml; remove {' '.join(options.settings)}, or start a new "
            f"run: python -m jaxarena.train {options.resume}/config.yaml key.path=value run_dir=NEW"
        )
    folder, config = read_run(Path(options.resume))
    if is_finished(folder):
        say(f"{folder.path} is finished already; its report is {folder.report}")
        return None, folder
    require_backends(config.tracking)
    open_run(folder.path, command)
    return Trainer(config), folder


def sources(settings: list[str]) -> tuple[Path | None, list[str]]:
    """The configuration file and the overrides on a command line."""
    files = [text for text in settings if "=" not in text]
    overrides = [text for text in settings if "=" in text]
    if len(files) > 1:
        raise ValueError(
            f"got {len(files)} configuration files, {' '.join(files)}; give one, and settings as key=value"
        )
    from_preset = any(text.startswith("preset=") for text in overrides)
    return (find_config(files[0]) if files else None if from_preset else find_config("default")), overrides


def _run(trainer: "Trainer", folder: "RunFolder", *, resume: bool, again: str) -> int:
    """Train, evaluate, report."""
    from jaxarena.experiment.evaluate import evaluate  # noqa: PLC0415
    from jaxarena.experiment.results import write_evaluation, write_train_summary  # noqa: PLC0415
    from jaxarena.experiment.training import policies_of, train, write_policies  # noqa: PLC0415

    say(f"run folder: {folder.path}")
    say(f"{_describe(trainer)}; compiling")
    with stop_signal() as stop:
        state, position, done = train(trainer, folder, resume=resume, should_stop=stop.is_set)
    if not done:
        return fail(f"stopped after {position.agent_steps:,} agent steps, the state is saved{again}", INTERRUPTED)
    write_train_summary(folder, position.as_summary())
    write_policies(trainer, folder.policy, state)
    say(
        f"trained {position.agent_steps:,} agent steps in {position.wall_s:.1f} s "
        f"(compiled in {position.compile_s:.1f} s); evaluating"
    )
    write_evaluation(folder, evaluate(trainer.config, trainer.ppo, policies_of(state)))
    say(f"report: {folder.report}")
    return OK


class _Stop:
    """Remembers that a stop was asked for; a second request interrupts at once."""

    def __init__(self) -> None:
        self._asked = False

    def is_set(self) -> bool:
        """Whether to stop at the next opportunity."""
        return self._asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        say("stopping after this chunk; press Ctrl-C again to stop at once, without saving")


@contextmanager
def stop_signal() -> Iterator[_Stop]:
    """Ctrl-C asks for a stop between chunks, where the state is whole; inside a chunk its buffers are given away."""
    stop = _Stop()
    try:
        before = signal.signal(signal.SIGINT, stop.ask)
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _describe(trainer: "Trainer") -> str:
    """Who trains where, in one line."""
    import jax  # noqa: PLC0415

    config = trainer.config
    roles = ", ".join(f"{trainer.env.num_agents(role)} {role}" for role in trainer.env.learned_roles)
    seeds = f", {config.seeds} seeds" if config.seeds > 1 else ""
    return f"learning: {roles} in each of {config.train.markets} markets{seeds}, on {jax.devices()[0].device_kind}"


if __name__ == "__main__":
    sys.exit(main())
