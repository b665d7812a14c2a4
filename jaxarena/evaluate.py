"""Evaluate the trained roles of a run again: on another split, or after the evaluation was changed.

Belongs here: the command line. Does not belong here: evaluating (`jaxarena.experiment.evaluate`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxarena.command import EXIT_CODES, Parser, guard, say

_EPILOG = f"""\
examples:
  jaxarena evaluate runs/default__s0__20300101-120000
  jaxarena evaluate runs/default__s0__20300101-120000 --split validation

The last checkpoint is played on the whole split, beside the baselines of the run's config.yaml. Results go into the
run's summary.json (test: `eval`, others: `eval_<split>`), plots and report.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed

    return guard(
        lambda: say(f"report: {evaluate_run(Path(options.run), options.split)}"), (ValueError, CheckpointError)
    )


def parser() -> Parser:
    """The options of the command."""
    made = Parser(
        prog="jaxarena evaluate",
        description="Evaluate the trained roles of a run, and the baselines, on one split of its data.",
        epilog=_EPILOG,
    )
    made.add_argument("run", metavar="RUN", help="the folder of a run")
    made.add_argument("--split", default="test", help="train, validation or test (default)")
    return made


def evaluate_run(path: Path, split: str = "test") -> Path:
    """Evaluate the last checkpoint of a run on a split and write the results into its folder.

    Returns:
        the path of the report.

    Raises:
        ValueError: no run there, or an unknown split.
        CheckpointError: no usable checkpoint.
    """
    from jaxarena.core.schema import nearest  # noqa: PLC0415 - see `main`
    from jaxarena.data.splits import SPLITS  # noqa: PLC0415
    from jaxarena.experiment.evaluate import evaluate  # noqa: PLC0415
    from jaxarena.experiment.results import write_evaluation  # noqa: PLC0415
    from jaxarena.experiment.run import read_run  # noqa: PLC0415
    from jaxarena.experiment.tracking import follow  # noqa: PLC0415
    from jaxarena.experiment.training import Trainer, policies_of, restore_trained  # noqa: PLC0415

    if split not in SPLITS:
        raise ValueError(f"--split: unknown split {split!r}; {nearest(split, SPLITS)}")
    folder, config = read_run(path)
    trainer = Trainer(config)
    state, _ = restore_trained(trainer, folder)
    with follow(config, folder):
        write_evaluation(folder, evaluate(config, trainer.ppo, policies_of(state), split))
    return folder.report


if __name__ == "__main__":
    sys.exit(main())
