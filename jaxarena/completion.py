"""Print a script that lets a shell complete commands, options, runs, configurations, parts and settings.

Belongs here: which word is completed with what. Does not belong here: the shells' languages (the package shtab, which
writes the scripts from the parsers). Everything is looked up when the script is made, so that completing starts no
Python at all; make the script anew after an update.
"""

import importlib
import sys
from collections.abc import Sequence

from jaxarena.command import EXIT_CODES, Parser, guard

_SHELLS = ("bash", "zsh", "fish")
#: Bash adds a space behind a word that it completed; behind `ppo.lr=` a value follows.
_NO_SPACE = """
_jaxarena_without_space() {
  _shtab_jaxarena "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o bashdefault -F _jaxarena_without_space jaxarena
"""
_EPILOG = f"""\
examples:
  bash   jaxarena completion bash > ~/.local/share/bash-completion/completions/jaxarena
  zsh    jaxarena completion zsh > ~/.zfunc/_jaxarena        with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  fish   jaxarena completion fish > ~/.config/fish/completions/jaxarena.fish

Make the folder first, open a new shell, and make the script anew after an update of jaxarena.

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return guard(lambda: print(script(options.shell)))


def parser() -> Parser:
    """The options of the command."""
    made = Parser(prog="jaxarena completion", description="Print a completion script for a shell.", epilog=_EPILOG)
    made.add_argument("shell", choices=_SHELLS, help="which shell")
    return made


def script(shell: str) -> str:
    """The completion script for `bash`, `zsh` or `fish`."""
    import shtab  # noqa: PLC0415 - after --help, for speed

    written: str = shtab.complete(whole_parser(), shell)
    return written + (_NO_SPACE if shell == "bash" else "")


def whole_parser() -> Parser:
    """One parser of all commands, whose arguments know what completes them."""
    import shtab  # noqa: PLC0415

    from jaxarena.__main__ import COMMANDS, module_of  # noqa: PLC0415 - which calls this module by its name

    whole = Parser(prog="jaxarena")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    words = _words()
    for name, meaning in COMMANDS.items():
        module = importlib.import_module(f"jaxarena.{module_of(name)}")
        one = commands.add_parser(name, help=meaning, parents=[module.parser()], add_help=False)
        for action in one._actions:
            if action.dest in ("run", "runs", "resume", "out"):
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.dest in words:
                action.choices = words[action.dest]
    return whole


def _words() -> dict[str, list[str]]:
    """What may stand where, by the name of the argument."""
    from jaxarena.data.splits import SPLITS  # noqa: PLC0415 - after --help, for speed
    from jaxarena.experiment.catalogue import catalogue, setting_keys  # noqa: PLC0415
    from jaxarena.experiment.metrics import METRICS  # noqa: PLC0415

    everything = catalogue()
    return {
        "settings": [*(entry.name for entry in everything["config"]), *(f"{key}=" for key in setting_keys())],
        "family": list(everything),
        "name": sorted({entry.name for entries in everything.values() for entry in entries}),
        "metric": [*METRICS, "all"],
        "split": list(SPLITS),
    }


if __name__ == "__main__":
    sys.exit(main())
