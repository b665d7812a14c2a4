"""The console command: dispatch, exit codes, help, nearest names, pipes, and the small commands themselves."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from jaxarena import __main__ as console
from jaxarena import __version__, command, completion
from jaxarena.core.component import families
from jaxarena.data.sources import find_problems
from jaxarena.experiment import catalogue
from jaxarena.experiment.config import load_config

HEADER = "date,symbol,open,high,low,close,volume\n"


def modules():
    """Commands whose module is part of this package."""
    names = {name: f"jaxarena.{console.module_of(name)}" for name in console.COMMANDS}
    return {name: module for name, module in names.items() if importlib.util.find_spec(module)}


def run(*arguments, program="import sys; from jaxarena.__main__ import main; sys.exit(main())"):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", modules())
def test_help_of_a_command_teaches_by_examples(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        console.main([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert shown.startswith(f"usage: jaxarena {name}")
    assert "exit codes:" in shown
    assert re.search(rf"examples:\n.*jaxarena {name}", shown)


def test_no_arguments_and_help_show_every_command(capsys):
    assert console.main([]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in console.COMMANDS)


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from jaxarena.__main__ import main; code = main(sys.argv[1:]); "
        "print(sorted({'jax', 'numpy', 'rich', 'polars', 'shtab'} & set(sys.modules))); sys.exit(code)"
    )
    done = run(program=program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        console.main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"jaxarena {__version__}\n")


def test_an_unknown_command_or_option_is_answered_with_the_nearest(capsys):
    assert console.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        console.main(["compare", "a", "--metrik", "sharpe"])
    assert stopped.value.code == 2
    assert "did you mean --metric?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a word"), 2, "error: a word"),
        (PermissionError("a file"), 1, "error: a file"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_become_exit_codes(error, code, message, capsys):
    def work():
        raise error

    assert command.guard(work) == code
    assert capsys.readouterr().err.startswith(message)


def test_a_reader_that_has_gone_is_no_error():
    program = (
        "import sys; from jaxarena.command import guard; "
        "code = guard(lambda: print('line\\n' * 200_000)); print(code, file=sys.stderr); sys.exit(code)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "line\n"
        child.stdout.close()
        assert child.stderr.read() == "0\n"
    assert child.returncode == 0


def test_list_shows_every_public_part(capsys):
    assert console.main(["list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    shown = {tuple(row[:2]) for row in rows}
    for family, base in families().items():
        ours = [kind for kind, member in base.members.items() if catalogue._is_ours(member)]
        assert {(family, kind) for kind in ours} <= shown
    assert {("preset", "Gbm-v0"), ("config", "smoke"), ("setting", "market.roles.N.limits")} <= shown
    assert all(len(row) == 3 and row[2] for row in rows), "a line each, with its meaning"


def test_list_of_one_has_fields_defaults_and_comments(capsys):
    assert console.main(["list", "process", "gbm"]) == 0
    shown = capsys.readouterr().out
    assert "one common factor" in shown
    assert "volume_noise\tfloat\t0.3\tstandard deviation of log volume" in shown
    assert console.main(["list", "setting", "train", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    markets = next(setting for setting in entry["settings"] if setting["name"] == "markets")
    assert (markets["default"], markets["meaning"]) == (256, "markets stepped together, per seed")
    assert console.main(["list", "process", "gmb"]) == 2
    assert "did you mean 'gbm'?" in capsys.readouterr().err


def test_every_setting_that_is_listed_can_be_set():
    plain = catalogue.catalogue()["setting"]
    defaults = {
        f"{entry.name}.{setting.name}": setting.default
        for entry in plain
        if entry.name in ("ppo", "train", "evaluation", "market.financing")
        for setting in entry.settings
    }
    assert set(defaults) <= set(catalogue.setting_keys())
    overrides = [f"{key}={json.dumps(value)}" for key, value in defaults.items()]
    config = load_config(None, ["preset=Gbm-v0", *overrides])
    assert config.ppo == load_config(None, ["preset=Gbm-v0"]).ppo


def test_data_show_counts_bars_of_each_symbol_and_period(capsys):
    assert console.main(["data", "show", "us_daily", "--symbols", "IBM", "FB"]) == 0
    rows = [line.split("\t")[:7] for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == ["IBM", "2000-03-01", "2013-03-01", "3270", "2223", "504", "543"]
    assert rows[2] == ["FB", "2012-05-18", "2013-03-01", "196", "0", "0", "196"]


def test_data_check_reports_all_problems_at_once(tmp_path, capsys):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(HEADER + "2020-01-02,A,1,2,0.5,1,3\n2020-01-03,A,1,2,0.5,1,3\n")
    bad.write_text(
        HEADER + "2020-01-02,A,1,2,0.5,x,3\n2020-01-03,A,1,2,0.5,y,3\n2020-01-02,B,1,2,3,1,-3\n2020-01-02,B,1,2,0,1,3\n"
    )
    assert console.main(["data", "check", str(good)]) == 0
    assert console.main(["data", "check", str(bad)]) == 2
    found = capsys.readouterr().out.splitlines()[1:]
    places = [re.search(r"row (\d+).*?column '(\w+)': (got|cannot read|repeats)", line).groups() for line in found]
    assert places == [
        ("1", "close", "cannot read"),
        ("2", "close", "cannot read"),
        ("4", "date", "repeats"),
        ("4", "low", "got"),
        ("3", "volume", "got"),
        ("3", "low", "got"),
    ]


def test_data_check_holds_sessions_against_each_other(tmp_path):
    gap = tmp_path / "gap.csv"
    rows = [f"2020-01-0{day},{name},1,2,0.5,1,3\n" for name in "AB" for day in (2, 3, 6) if (name, day) != ("B", 3)]
    gap.write_text(HEADER + "".join(rows))
    (problem,) = find_problems(gap)
    assert "B has no row for 2020-01-03" in problem


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_parts_and_settings(shell, monkeypatch):
    monkeypatch.setattr(console, "COMMANDS", {name: console.COMMANDS[name] for name in modules()})
    script = completion.script(shell)
    assert all(word in script for word in (*modules(), "smoke", "ppo.gae_lambda=", "historical_replay", "--split"))
    assert "python" not in script


def test_bash_completes(monkeypatch, tmp_path):
    monkeypatch.setattr(console, "COMMANDS", {name: console.COMMANDS[name] for name in modules()})
    file = tmp_path / "jaxarena.bash"
    file.write_text(completion.script("bash"))
    ask = (
        f"source {file}; compopt() {{ :; }}; "
        'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
        '_jaxarena_without_space jaxarena "${@: -1}"; echo "${COMPREPLY[@]}"; }; '
        "ask jaxarena comple; ask jaxarena train smo; ask jaxarena train smoke ppo.gae; ask jaxarena list pro"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["completion", "smoke", "ppo.gae_lambda=", "process"]
