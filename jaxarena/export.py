"""Write the trained policies of a run as files to take elsewhere.

Belongs here: the command line. Does not belong here: the files' formats (`jaxarena.learn.policy_file`,
`jaxarena.learn.policy_export`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxarena.train import BAD_INPUT, FAILED, INTERRUPTED, OK

_EPILOG = """\
examples:
  python -m jaxarena.export runs/default__s0__20300101-120000
  python -m jaxarena.export runs/default__s0__20300101-120000 --stablehlo
  python -m jaxarena.export runs/default__s0__20300101-120000 --stablehlo --sample --seed 2 --to trader.stablehlo

The first writes policy.npz from the last checkpoint, as training does at its end; jaxarena.load_policy reads it. With
--stablehlo the policies become one compiled program, checked against the policies before it is written, that
jax.export.deserialize reads where jaxarena is not installed (needs: pip install "jaxarena[export]").

exit codes: 0 done, 1 failed to write, 2 bad input, 130 stopped by Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxarena.export",
        description="Write the trained policies of a run as a file that needs no training code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--to", metavar="FILE", type=Path, help="default: policy.npz or policy.stablehlo in the folder")
    parser.add_argument("--stablehlo", action="store_true", help="write a compiled program")
    parser.add_argument("--sample", action="store_true", help="the program draws actions; default: the likeliest ones")
    parser.add_argument("--seed", type=int, default=0, help="which seed of the run goes into the program (default 0)")
    parser.add_argument("--platforms", nargs="+", default=["cpu", "cuda"], help="of the program (default: cpu cuda)")
    options = parser.parse_args(arguments)
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed

    try:
        path = _export(options)
    except (ValueError, CheckpointError) as error:
        return _fail(str(error), BAD_INPUT)
    except OSError as error:
        return _fail(f"cannot write the policy: {error}", FAILED)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    print(f"policy: {path}", file=sys.stderr)
    return OK


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


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
