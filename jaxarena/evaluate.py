"""Evaluate the trained roles of a run again: on another split, or after the evaluation was changed.

Belongs here: the command line. Does not belong here: evaluating (`jaxarena.experiment.evaluate`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxarena.train import BAD_INPUT, FAILED, INTERRUPTED, OK

_EPILOG = """\
examples:
  python -m jaxarena.evaluate runs/default__s0__20300101-120000
  python -m jaxarena.evaluate runs/default__s0__20300101-120000 --split validation

The last checkpoint is played on the whole split, beside the baselines of the run's config.yaml. Results go into the
run's summary.json (test: `eval`, others: `eval_<split>`), plots and report.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see `jaxarena.train`)."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxarena.evaluate",
        description="Evaluate the trained roles of a run, and the baselines, on one split of its data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    options = parser.parse_args(arguments)
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed

    try:
        report = evaluate_run(Path(options.run), options.split)
    except (ValueError, CheckpointError) as error:
        return _fail(str(error), BAD_INPUT)
    except OSError as error:
        return _fail(f"cannot write the results: {error}", FAILED)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    print(f"report: {report}", file=sys.stderr)
    return OK


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


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
