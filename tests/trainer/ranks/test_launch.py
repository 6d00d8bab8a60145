"""Several processes from one command: the launched command line, signals, and errors before the launch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from skyrl_train.entrypoints.main_base import main
from skyrl_train.ranks import launch as launching
from skyrl_train.ranks.launch import is_launched, launch, launch_command


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
        assert command[1:4] == ["-m", "skyrl_train.ranks.launcher", "2"]


def test_a_script_that_registers_a_loss_is_launched_itself(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my_script.py", "--num-processes", "2"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "my_script.py", raising=False)
    assert launch_command(["--num-processes", "2"], 2)[-1] == "my_script.py"


def test_a_launched_process_launches_no_others(monkeypatch):
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
from skyrl_train.ranks.exit_message import ExitMessage
ExitMessage(exit_code=130, text="resume like this").print()
sys.exit("noise of the launcher")
"""


def test_exit_message_and_exit_code_of_rank_0_follow_the_launchers_output(monkeypatch, capfd):
    monkeypatch.setattr(launching, "launch_command", lambda *_: [sys.executable, "-c", RANK_0])
    assert launch([], 2) == 130
    assert capfd.readouterr().err == "noise of the launcher\nresume like this\n"


def test_a_rank_that_vanishes_with_the_code_of_a_success_is_a_failure(monkeypatch, capfd):
    monkeypatch.setattr(launching, "launch_command", lambda *_: [sys.executable, "-c", "import os; os._exit(0)"])
    assert launch([], 2) == 5
    assert "rank 0 exited without finishing the run" in capfd.readouterr().err


PARENT = """\
import signal, sys
from skyrl_train.ranks import launch
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run with SIGHUP ignored
child = (
    "import signal, sys, time\\n"
    "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, lambda n, _: sys.exit(n))\\n"
    "print('up', flush=True); time.sleep(60)"
)
launch.launch_command = lambda *_: [sys.executable, "-c", child]
sys.exit(launch.launch([], 2))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command_is_forwarded(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=os.environ) as parent:
        assert parent.stdout.readline() == "up\n"
        started = time.monotonic()
        parent.send_signal(number)  # only to this process, not from a terminal
        assert parent.wait(timeout=30) == number
        assert time.monotonic() - started < 30


def test_suspending_the_command_suspends_its_processes():
    def state(process):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]

    def until(wanted, *processes):
        limit = time.monotonic() + 30
        while {state(process) for process in processes} != {wanted}:
            assert time.monotonic() < limit
            time.sleep(0.02)

    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=os.environ) as parent:
        assert parent.stdout.readline() == "up\n"
        child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        parent.send_signal(signal.SIGTSTP)
        until("T", parent.pid, child)
        parent.send_signal(signal.SIGCONT)
        until("S", parent.pid, child)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=30) == signal.SIGTERM


RANKS = """\
import os, signal, sys, time
from pathlib import Path
from skyrl_train.ranks.launch import launch, stop_with_launcher

signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped in order", flush=True)))
if "RANK" not in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(launch(sys.argv[1:], 2))
stop_with_launcher()
import torch.distributed
torch.distributed.init_process_group("gloo")
os.write(1, b"%d\\n" % os.getpid())  # at once, because both ranks write into one pipe
time.sleep(99)
"""


@pytest.mark.parametrize("victim", ["command", "launcher"])
def test_ranks_listen_on_loopback_only_and_stop_in_order_once_the_command_or_launcher_is_killed(victim, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as command:
        ranks = [psutil.Process(int(command.stdout.readline())) for _ in range(2)]
        launcher = ranks[0].parent()
        assert launcher.ppid() == command.pid
        listening = [c.laddr.ip for p in (launcher, *ranks) for c in p.net_connections("tcp") if c.status == "LISTEN"]
        assert len(listening) >= 3
        assert set(listening) == {"127.0.0.1"}
        os.kill(command.pid if victim == "command" else launcher.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([launcher, *ranks], timeout=120)
        assert alive == []
        assert command.stdout.read().count("stopped in order") == 2
        assert command.wait(120) == (-signal.SIGKILL if victim == "command" else 128 + signal.SIGKILL)
