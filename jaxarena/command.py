"""What all commands share: exit codes, messages, tables, and option parsers that suggest what was meant.

Belongs here: how a command talks to a terminal or a script. Does not belong here: anything that a command does.
Messages go to stderr, results to stdout, so that `jaxarena list | grep ...` sees results only.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 bad input, 130 stopped by Ctrl-C"


def say(text: str) -> None:
    """Tell the user something, on stderr."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: int) -> int:
    """Say what went wrong and return the exit code."""
    say(text)
    return code


def guard(work: Callable[[], int | None], bad_input: tuple[type[Exception], ...] = (ValueError,)) -> int:
    """Do the work of a command and turn its errors into a message and an exit code.

    Args:
        work: returns an exit code, or None for success.
        bad_input: errors that say what the user should give instead.

    Returns:
        the exit code. A reader that has gone (`jaxarena list | head -1`) is no error.

    >>> guard(lambda: None)
    0
    """
    try:
        code = work() or OK
        sys.stdout.flush()
        return code
    except bad_input as error:
        return fail(f"error: {error}", BAD_INPUT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go, at exit too
        return OK
    except OSError as error:
        return fail(f"error: {error}; is the place writable, and is there space?", FAILED)
    except KeyboardInterrupt:
        return fail("stopped", INTERRUPTED)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table for people on a terminal; lines of tab-separated values, headings first, for a file or a pipe."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in (columns, *rows)))
        return
    from rich import box  # noqa: PLC0415 - takes time to import
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


class Parser(argparse.ArgumentParser):
    """A parser that keeps the lines of its texts and names the nearest option when one is unknown."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and the likeliest meaning."""
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
        super().error(message + (f"; did you mean {close[0]}?" if close else ""))
