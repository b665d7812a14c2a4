"""The console command `jaxarena`: one name for all commands.

Belongs here: the table of commands and finding one. Does not belong here: what they do. Every command is a module with
`main(arguments) -> exit code` and runs as `python -m jaxarena.<command>` too; only the one that is called is imported.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

import jaxarena
from jaxarena.command import BAD_INPUT, EXIT_CODES, OK, Parser, fail

#: Commands and their meaning; the module of each is `jaxarena.<command>`.
COMMANDS = {
    "train": "train the learned roles of a market, evaluate them on unseen years, and write a report",
    "evaluate": "evaluate a run again, on another split",
    "compare": "compare runs: a table and a picture with intervals, and how their settings differ",
    "report": "write the report of a run anew",
    "verify": "recompute the evaluation of a run and say whether its numbers are reproduced",
    "export": "write the trained policies of a run as a small file that needs no training code",
    "list": "what there is: processes, mechanisms, rewards, strategies, presets, ..., with fields and defaults",
    "data": "look at a price history, or check a file of bars",
    "completion": "print a script that lets a shell complete all of this",
}

_EPILOG = f"""\
examples:
  jaxarena train smoke run_dir=runs/first     a minute of everything
  jaxarena list reward                        what a role can be paid for
  jaxarena train default ppo.lr=1e-4 seed=1   settings laid over a configuration
  jaxarena compare runs/first runs/second     which one is better, and how sure that is
  jaxarena COMMAND --help                     all about one command

Each is also `python -m jaxarena.COMMAND`.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        command: int = importlib.import_module(f"jaxarena.{module_of(words[0])}").main(words[1:])
        return command
    parser = _parser()
    given = parser.parse_args(words[:1]).command
    if given is None:
        parser.print_help()
        return OK
    close = difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return fail(f"error: unknown command {given!r}; {hint}known: {', '.join(COMMANDS)}", BAD_INPUT)


def module_of(command: str) -> str:
    """The module of a command, inside the package."""
    return "data.__main__" if command == "data" else command


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items())
    parser = Parser(
        prog="jaxarena",
        usage="jaxarena COMMAND ...",
        description=f"Markets full of learning agents that trade against each other.\n\ncommands:\n{table}",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"jaxarena {jaxarena.__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="what to do; the rest of the line is its own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
