"""The root command: help, dispatch, exit codes."""

import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from skyrl_core.cli.main import TRAINER_COMMANDS, main
from skyrl_core.discovery.installed import installed_distributions
from skyrl_core.errors import ConformanceError, InvalidParamsError, PluginConflictError, PluginLoadError

ROOT = Path(__file__).parents[3]
COMMANDS = "skyrl.commands"


@pytest.fixture
def add_command(distributions):
    def add(source, name="mine"):
        modules = {"my_commands.py": f'"""Does my thing.\n\nMore."""\n{source}'}
        distributions.add("my-dist", {COMMANDS: {name: "my_commands:main"}}, modules=modules)

    return add


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_without_importing_them(add_command, capsys, arguments):
    add_command("raise SystemExit('imported')")
    assert main(arguments) == 0
    output = capsys.readouterr().out
    rows = [line.split(maxsplit=1) for line in output.splitlines() if line.startswith("  ")]
    assert ["mine", "Does my thing."] in rows
    assert ["losses", "List, explain and check the installed policy losses."] in rows


def test_help_shows_the_reason_for_a_broken_command(distributions, capsys):
    distributions.add("my-dist", {COMMANDS: {"mine": "no_such_package:main"}})
    assert main(["--help"]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  mine ")]
    assert "broken: package 'no_such_package' cannot be found" in row


def test_a_command_gets_its_arguments_and_returns_the_exit_code(add_command, capsys):
    add_command("def main(argv):\n    print(argv)\n    return 17")
    assert main(["mine", "-x", "--help", "y"]) == 17
    assert capsys.readouterr().out == "['-x', '--help', 'y']\n"


def test_an_unknown_command_exits_with_2_and_the_nearest_one(capsys):
    assert main(["loses"]) == 2
    assert "no command is named 'loses'; did you mean 'losses'?" in capsys.readouterr().err


def test_a_subcommand_without_its_command_is_found(capsys):
    assert main(["check", "gspo"]) == 2
    assert capsys.readouterr().err == "error: no command is named 'check'; did you mean `skyrl losses check`?\n"
    assert main(["--hlp"]) == 2
    assert "did you mean --help?" in capsys.readouterr().err


def test_errors_and_help_have_colours_if_forced_and_never_with_no_color(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["loses"])
    assert capsys.readouterr().err.startswith("\x1b[1;31merror:\x1b[0m no command")
    main([])
    assert "\x1b[1mcommands:\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["loses"])
    main([])
    captured = capsys.readouterr()
    assert "\x1b" not in captured.err + captured.out


def test_the_core_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "skyrl_core", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skyrl-core ")


def test_only_the_trainer_provides_the_commands_that_are_said_to_be_its_own():
    project = tomllib.loads((ROOT / "trainer/pyproject.toml").read_text())["project"]
    assert sorted(project["entry-points"]["skyrl.commands"]) == sorted(TRAINER_COMMANDS)


@pytest.fixture
def without_trainer(monkeypatch):
    """Its distribution hidden, as in an environment that has the core and a loss."""
    absent = ("skyrl-train", "skyrl-loss-clippedpg")
    others = tuple(each for each in installed_distributions() if each.name not in absent)
    for module in ("discovery.plugin_group", "discovery.install_command", "cli.main"):
        monkeypatch.setattr(sys.modules[f"skyrl_core.{module}"], "installed_distributions", lambda: others)


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_a_command_of_the_trainer_names_the_package_and_how_to_install_it(without_trainer, capsys, command):
    assert main([command, "--loss", "entropy_reg"]) == 2
    assert capsys.readouterr().err == (
        f"error: `skyrl {command}` needs the package skyrl-train, which is not installed\n"
        f"install it: {sys.executable} -m pip install skyrl-train\n"
        f"or with the extra of the loss: {sys.executable} -m pip install 'skyrl-loss-entropyreg[train]'\n"
    )


def test_help_says_how_to_add_the_commands_of_the_trainer(without_trainer, capsys):
    added = f"To add config, eval, export, report, serve, train: {sys.executable} -m pip install skyrl-train"
    assert main(["--help"]) == 0
    assert added in capsys.readouterr().out.splitlines()


def test_help_with_the_trainer_says_nothing_of_installing_it(capsys):
    assert main(["--help"]) == 0
    assert "pip install" not in capsys.readouterr().out


def test_an_unknown_option_exits_with_2(capsys):
    assert main(["--verbose"]) == 2
    assert "unknown option '--verbose'" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skyrl-core {version('skyrl-core')}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(PluginConflictError, 3), (InvalidParamsError, 4), (PluginLoadError, 5), (ConformanceError, 6)]
)
def test_an_error_of_a_command_is_one_message_and_its_exit_code(add_command, capsys, error, code):
    add_command(f"from skyrl_core.errors import *\ndef main(argv): raise {error.__name__}('what went wrong')")
    assert main(["mine"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: what went wrong\n")


def test_a_command_that_cannot_be_imported_exits_with_5(add_command, capsys):
    add_command("raise SystemExit(0)")
    assert main(["mine"]) == 5
    assert "SystemExit" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_without_a_traceback(add_command, run_skyrl):
    add_command(f"import os\ndef main(argv): os.kill(os.getpid(), {int(signal.SIGINT)})")
    done = run_skyrl("mine")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_closed_pipe_is_not_an_error(add_command, distributions):
    add_command("def main(argv):\n    for _ in range(100_000): print('line')\n    return 0")
    process = subprocess.Popen(
        [sys.executable, "-m", "skyrl_core.cli.main", "mine"],
        env={**os.environ, "PYTHONPATH": str(distributions.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_a_character_that_the_terminal_cannot_display_becomes_a_question_mark(add_command, run_skyrl):
    add_command("def main(argv):\n    print('caf\\u00e9 \\u2026')\n    return 0")
    done = run_skyrl("mine", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "caf? ?\n")


def test_a_file_without_read_permission_is_one_message(add_command, capsys):
    add_command("def main(argv): raise PermissionError(13, 'Permission denied', 'rows.jsonl')")
    assert main(["mine"]) == 2
    assert capsys.readouterr().err == "error: rows.jsonl: Permission denied\n"


def test_a_command_of_another_package_that_fails_is_named_and_one_that_exits_is_not(add_command, capsys):
    add_command("import sys\ndef main(argv):\n    if argv: raise RuntimeError('torn')\n    sys.exit(0)")
    assert main(["mine", "now"]) == 5
    error = capsys.readouterr().err
    assert error.startswith("error: command 'mine' (my-dist 1.0) failed: RuntimeError: torn\n  at ")
    assert "report this to the author of my-dist" in error
    with pytest.raises(SystemExit) as ended:
        main(["mine"])
    assert ended.value.code == 0


def test_any_other_os_error_is_raised(add_command):
    add_command("def main(argv): raise OSError(5, 'Input/output error', 'rows.jsonl')")
    with pytest.raises(OSError, match=r"rows\.jsonl"):
        main(["mine"])


@pytest.mark.parametrize(("output", "code", "message"), [(">&-", 0, ""), (">/dev/full", 2, "No space left on device")])
def test_an_output_that_cannot_be_written_gives_no_traceback(add_command, distributions, output, code, message):
    add_command("def main(argv):\n    print('line')\n    return 0")
    command = f"{shlex.quote(sys.executable)} -m skyrl_core.cli.main mine {output}"
    environment = {**os.environ, "PYTHONPATH": str(distributions.path)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert message in done.stderr
