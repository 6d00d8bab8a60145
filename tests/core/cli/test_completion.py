"""Completion, asked for as shells do."""

import os
import shutil
import subprocess
import sys
import time

import pytest

BASH = """
eval "$("$PYTHON" -m skyrl_core completion bash)"
skyrl() { "$PYTHON" -m skyrl_core "$@"; }
COMP_LINE="$LINE"; COMP_POINT=${#LINE}; COMP_TYPE=9; COMP_WORDS=($LINE)
_python_argcomplete skyrl
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path):
    """What argcomplete's protocol answers for a command line with the cursor at its end."""

    def ask(line, **environment):
        answer = tmp_path / "answer"
        answer.touch()
        asked = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
        }
        environment = {**os.environ, **asked, **environment}
        done = subprocess.run([sys.executable, "-m", "skyrl_core"], env=environment, capture_output=True, check=False)
        assert (done.stdout, done.stderr) == (b"", b"")
        return {each.strip() for each in answer.read_text().split("\n") if each.strip()}

    return ask


def test_commands_subcommands_and_options_are_completed(complete):
    assert {"losses", "plugins", "completion", "--help"} <= complete("skyrl ")
    assert complete("skyrl lo") == {"losses"}
    assert {"list", "show", "check", "new"} <= complete("skyrl losses ")
    assert complete("skyrl losses list --l") == {"--long"}


def test_losses_are_completed_without_an_import_of_any(complete, distributions):
    module = {"mine.py": "raise SystemExit('imported')"}
    distributions.add("my-dist", {"skyrl.policy_losses": {"gmine": "mine:Mine"}}, modules=module)
    path = str(distributions.path)
    assert complete("skyrl losses show g", PYTHONPATH=path) == {"gmine", "gmpo", "gspo"}
    assert complete("skyrl losses check my-dist:", PYTHONPATH=path) == {"my-dist:gmine"}


def test_a_command_that_cannot_complete_is_never_run(complete, distributions):
    source = "def main(argv): raise SystemExit('it ran')"
    distributions.add("my-dist", {"skyrl.commands": {"mine": "mine:main"}}, modules={"mine.py": source})
    assert complete("skyrl mine ", PYTHONPATH=str(distributions.path)) == set()
    assert complete("skyrl no_such_command ") == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_printed_code():
    environment = {**os.environ, "PYTHON": sys.executable, "LINE": "skyrl losses sig"}
    done = subprocess.run(["bash", "-c", BASH], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["signature"]


def test_completion_takes_a_fraction_of_a_second(complete):
    started = time.monotonic()
    complete("skyrl losses show ")
    assert time.monotonic() - started < 2  # importing torch would take longer; 0.12 s here
