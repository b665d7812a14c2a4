"""Write the trained policies of a run as files to take elsewhere.

Belongs here: the command line. Does not belong here: the files' formats (`jaxarena.learn.policy_file`,
`jaxarena.learn.policy_export`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxarena.command import EXIT_CODES, Parser, guard, say

_EPILOG = f"""\
examples:
  jaxarena export runs/default__s0__20300101-120000
  jaxarena export runs/default__s0__20300101-120000 --stablehlo
  jaxarena export runs/default__s0__20300101-120000 --stablehlo --sample --seed 2 --to trader.stablehlo

The first writes policy.npz from the last checkpoint, as training does at its end; jaxarena.load_policy reads it. With
--stablehlo the policies become one compiled program, checked against the policies before it is written, that
jax.export.deserialize reads where jaxarena is not installed (needs: pip install "jaxarena[export]").

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed

    return guard(lambda: say(f"policy: {_export(options)}"), (ValueError, CheckpointError))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(
        prog="jaxarena export",
        description="Write the trained policies of a run as a file that needs no training code.",
        epilog=_EPILOG,
    )
    made.add_argument("run", metavar="RUN", help="the folder of a run")
    made.add_argument("--to", metavar="FILE", type=Path, help="default: policy.npz or policy.stablehlo in the folder")
    made.add_argument("--stablehlo", action="store_true", help="write a compiled program")
    made.add_argument("--sample", action="store_true", help="the program draws actions; default: the likeliest ones")
    made.add_argument("--seed", type=int, default=0, help="which seed of the run goes into the program (default 0)")
    made.add_argument("--platforms", nargs="+", default=["cpu", "cuda"], help="of the program (default: cpu cuda)")
    return made


def _export(options: argparse.Namespace) -> Path:
    """Write what was asked for; returns where.

    Raises:
        ValueError: no run there, no such seed or platform.
        CheckpointError: no usable checkpoint.
    """
    from jaxarena.experiment.files import replacing  # noqa: PLC0415 - see `main`
    from jaxarena.experiment.run import read_run  # noqa: PLC0415
    from jaxarena.experiment.training import Trainer, restore_trained, write_policies  # noqa: PLC0415
    from jaxarena.learn.policy_export import export_policy  # noqa: PLC0415
    from jaxarena.learn.policy_file import load_policy  # noqa: PLC0415

    folder, config = read_run(Path(options.run))
    target: Path = options.to or (folder.path / "policy.stablehlo" if options.stablehlo else folder.policy)
    if not options.stablehlo:
        trainer = Trainer(config)
        write_policies(trainer, target, restore_trained(trainer, folder)[0])
        return target
    data = export_policy(load_policy(folder.policy, options.seed), not options.sample, options.platforms)
    with replacing(target) as file:
        file.write(data)
    return target


if __name__ == "__main__":
    sys.exit(main())
