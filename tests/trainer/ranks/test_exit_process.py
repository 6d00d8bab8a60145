"""A rank's process exits without the interpreter's shutdown, in which threads of gloo would abort it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """\
import atexit
import sys

from skyrl_train.ranks.exit_process import exit_process


class Teardown:
    def __del__(self):
        print("teardown")


def main():
    atexit.register(print, "exit handler")
    sys.modules["kept"] = Teardown()  # deleted last by Python
    print("main", end=" ")  # buffered: the stream is a pipe
    {end}


exit_process(main)
"""


def run_program(end, world_size):
    environment = os.environ | {"WORLD_SIZE": world_size}
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize("end", ["return 3", "raise SystemExit(3)"])
def test_one_of_several_ranks_exits_without_interpreter_shutdown(end):
    done = run_program(end, "2")
    assert (done.returncode, done.stdout) == (3, "main exit handler\n")


@pytest.mark.parametrize("end", ["return 3", "raise SystemExit(3)"])
def test_a_single_rank_exits_like_any_python_process(end):
    done = run_program(end, "1")
    assert (done.returncode, done.stdout) == (3, "main exit handler\nteardown\n")


def test_an_error_keeps_its_traceback():
    done = run_program('raise ValueError("broken")', "2")
    assert done.returncode == 1
    assert "ValueError: broken" in done.stderr
