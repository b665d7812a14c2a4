"""Write the report of a run anew, from the files in its folder.

Belongs here: the command line. Does not belong here: what the page shows (`jaxarena.experiment.report`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxarena.command import EXIT_CODES, Parser, guard

_EPILOG = f"""\
examples:
  jaxarena report runs/first            after a run was cut off, or a newer jaxarena was installed
  jaxarena report runs/first --open     and show it in a browser

The page is made of what the folder holds: nothing is computed again (`jaxarena evaluate` does that), and what a
run that was cut off lacks is left out. The path of the page is printed.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return guard(lambda: write(Path(options.run), show=options.open))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="jaxarena report", description="Write report.html of a run anew from its files.", epilog=_EPILOG)
    made.add_argument("run", metavar="RUN", help="the folder of a run")
    made.add_argument("--open", action="store_true", help="open the page in a browser")
    return made


def write(path: Path, *, show: bool = False) -> None:
    """Write the page and print its path.

    Raises:
        ValueError: no run there, or its files are damaged.
    """
    from jaxarena.experiment.report import write_report  # noqa: PLC0415 - after --help, for speed
    from jaxarena.experiment.run import read_run  # noqa: PLC0415

    page = write_report(read_run(path)[0])
    print(page)
    if show:
        import webbrowser  # noqa: PLC0415

        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    sys.exit(main())
