"""Several processes from one command: what is launched, and what never gets that far."""

import os
import signal
import subprocess
import sys
import time

import pytest

from skyrl_train.entrypoints import launch as launching
from skyrl_train.entrypoints.launch import is_launched, launch, launch_command
from skyrl_train.entrypoints.main_base import main


def test_the_module_is_launched_with_the_same_arguments_but_the_number(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/skyrl", "train"])
    for number in (["--num-processes", "2"], ["--num-processes=2"]):
        command = launch_command(["--loss", "gspo", *number, "trainer.steps=3"], 2)
        assert command[command.index("-m", 3) :] == [
            "-m",
            "skyrl_train.entrypoints.main_base",
            "--loss",
            "gspo",
            "trainer.steps=3",
        ]
        assert command[command.index("--num_processes") + 1] == "2"


def test_a_script_that_registers_a_loss_is_launched_itself(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my_script.py", "--num-processes", "2"])
    assert launch_command(["--num-processes", "2"], 2)[-1] == "my_script.py"


def test_a_process_of_a_launcher_launches_no_more(monkeypatch):
    assert not is_launched()
    monkeypatch.setenv("RANK", "0")
    assert is_launched()


def test_a_wrong_configuration_is_reported_once_and_nothing_is_launched(monkeypatch, capsys):
    monkeypatch.setattr(launching.subprocess, "Popen", lambda *_: pytest.fail("launched"))
    with pytest.raises(SystemExit) as stop:
        main(["--num-processes", "2", "trainer.stepz=1"])
    assert stop.value.code == 4
    assert capsys.readouterr().err.count("trainer.stepz = 1: unknown option") == 1


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_the_number_is_checked(number, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--num-processes", number])
    assert stop.value.code == 2
    assert "--num-processes" in capsys.readouterr().err


def test_the_exit_code_is_that_of_the_processes(monkeypatch):
    monkeypatch.setattr(launching, "launch_command", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    assert launch([], 2) == 7


RANK_0 = """\
import sys
from skyrl_train.training.farewell import Farewell
Farewell(exit_code=130, words="go on like this").say()
sys.exit("noise of the launcher")
"""


def test_the_last_words_and_the_exit_code_of_rank_0_come_after_its_launcher(monkeypatch, capfd):
    monkeypatch.setattr(launching, "launch_command", lambda *_: [sys.executable, "-c", RANK_0])
    assert launch([], 2) == 130
    assert capfd.readouterr().err == "noise of the launcher\ngo on like this\n"


PARENT = """\
import sys
from skyrl_train.entrypoints import launch
child = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9));"
    "print('up', flush=True); time.sleep(60)"
)
launch.launch_command = lambda *_: [sys.executable, "-c", child]
sys.exit(launch.launch([], 2))
"""


def test_a_request_to_end_is_passed_on():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=os.environ) as parent:
        assert parent.stdout.readline() == "up\n"
        started = time.monotonic()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=30) == 9
        assert time.monotonic() - started < 30
