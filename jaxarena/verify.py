"""Check that the numbers of a run can be had again.

Belongs here: the command line. Does not belong here: checking (`jaxarena.experiment.reproduce`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxarena.command import FAILED, OK, Parser, guard

if TYPE_CHECKING:
    from jaxarena.experiment.reproduce import Verification

_SHOWN = 10  # differences
_EPILOG = """\
examples:
  jaxarena verify runs/default__s0__20300101-120000

Compares the run's files and data with the hashes in its manifest.json, plays its evaluations again from the last
checkpoint, and compares every number of summary.json: to the last bit where machine and packages are of the same kind,
otherwise to one part in a thousand. Nothing in the folder is changed.

exit codes: 0 reproduced, 1 not reproduced, 2 bad input (no finished run there), 130 stopped by Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    from jaxarena.experiment.checkpoint import CheckpointError  # noqa: PLC0415 - after --help, for speed
    from jaxarena.experiment.reproduce import verify_run  # noqa: PLC0415

    def check() -> int:
        found = verify_run(Path(options.run))
        print("\n".join(_lines(found)))
        return OK if found.reproduced else FAILED

    return guard(check, (ValueError, CheckpointError))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(
        prog="jaxarena verify",
        description="Check the files of a run, play its evaluation again, and say whether the numbers are the same.",
        epilog=_EPILOG,
    )
    made.add_argument("run", metavar="RUN", help="the folder of a finished run")
    return made


def _lines(found: "Verification") -> list[str]:
    """What was found, for a reader."""
    lines = [*(f"changed: {text}" for text in found.changed), *(f"different: {text}" for text in found.other)]
    lines += [f"differs: {difference}" for difference in found.differences[:_SHOWN]]
    if len(found.differences) > _SHOWN:
        lines.append(f"and {len(found.differences) - _SHOWN:,} more")
    how = "to the last bit" if found.same_kind else "to one part in a thousand, as machine or packages differ"
    same = found.compared - len(found.differences)
    verdict = "reproduced" if found.reproduced else "NOT reproduced"
    return [*lines, f"{verdict}: {same:,} of {found.compared:,} numbers are equal {how}"]


if __name__ == "__main__":
    sys.exit(main())
