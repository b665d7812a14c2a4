"""Show what there is to choose from: parts of a market by family, presets, configurations and their settings.

Belongs here: the command line. Does not belong here: finding them (`jaxarena.experiment.catalogue`).
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxarena.command import EXIT_CODES, Parser, guard, print_table

if TYPE_CHECKING:
    from jaxarena.experiment.catalogue import Entry

_EPILOG = f"""\
examples:
  jaxarena list                      everything, a line each
  jaxarena list reward               the rewards
  jaxarena list process gbm          all about one: its text, its fields and their defaults
  jaxarena list setting ppo          the settings of the learner
  jaxarena list preset Gbm-v0        a market that comes with the package
  jaxarena list reward --json        for a program

A part is used by its name: `process: gbm`, or with fields `process: {{kind: gbm, volatility: 0.3}}`, or on a command
line market.process.volatility=0.3. Your own class needs no listing: `kind: "my_module:MyReward"`.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return guard(lambda: show(options.family, options.name, as_json=options.json))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(
        prog="jaxarena list",
        description="Show what there is to choose from, with fields and defaults.",
        epilog=_EPILOG,
    )
    made.add_argument("family", nargs="?", metavar="FAMILY", help="process, mechanism, reward, ..., preset, setting")
    made.add_argument("name", nargs="?", metavar="NAME", help="one member of the family")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def show(family: str | None = None, name: str | None = None, *, as_json: bool = False) -> None:
    """Print everything, a family, or one member.

    Raises:
        ValueError: an unknown family or name; with the nearest one.
    """
    import dataclasses  # noqa: PLC0415 - after --help, for speed

    from jaxarena.experiment.catalogue import catalogue, find  # noqa: PLC0415

    entries = [e for group in catalogue().values() for e in group] if family is None else find(family, name)
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2, ensure_ascii=False))
    elif name is not None:
        _show_one(entries[0])
    elif family is not None:
        print_table((family, "meaning"), [(entry.name, entry.meaning) for entry in entries])
    else:
        print_table(("family", "name", "meaning"), [(e.family, e.name, e.meaning) for e in entries])


def _show_one(entry: "Entry") -> None:
    print(f"{entry.family} {entry.name} ({entry.home})\n\n{entry.text}\n")
    if entry.settings:
        rows = [(s.name, s.type, "required" if s.required else _plain(s.default), s.meaning) for s in entry.settings]
        print_table(("field", "type", "default", "meaning"), rows)


def _plain(value: Any) -> str:
    """A default as it would be written in YAML, on one line."""
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
