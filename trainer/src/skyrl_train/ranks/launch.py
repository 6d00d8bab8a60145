"""Starts a run on several processes of this machine, through torch's elastic launcher."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from skyrl_core.errors import PluginError
from skyrl_train.machine.parent_watch import child_of_this_process, watch_parent
from skyrl_train.ranks import exit_message as exit_message
from skyrl_train.ranks.launch_screen import LaunchScreen
from skyrl_train.tracking.stderr import say

MAIN = "skyrl_train.entrypoints.main_base"
LAUNCHER = "skyrl_train.ranks.launcher"
OPTION = "--num-processes"


LAUNCHER_MARKS = {"TORCHELASTIC_RUN_ID", "CROSS_RANK"}
"""Environment variables that only a launcher sets, which lives as long as its processes: torch's and deepspeed's."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)


VANISHED = (
    "rank 0 exited without finishing the run: code that it called may have ended the process, for example with "
    "os._exit; resume with --resume, and raise an exception there instead"
)


@functools.cache
def stop_with_launcher() -> None:
    """Stop this process, in order, once the launcher that started it is gone.

    A rank that was started by hand may outlive the shell that started it.
    """
    if LAUNCHER_MARKS & os.environ.keys():
        watch_parent()


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ


PATIENCE = "600"
"""Seconds that the launcher gives its processes to finish a training step after a request to stop."""


def launch(argv: Sequence[str], processes: int) -> int:
    """Run the same command line in ``processes`` processes; returns the exit code once all have exited.

    Signals are forwarded to them, so that they stop in order.
    """
    with tempfile.TemporaryDirectory(prefix="skyrl-") as folder:
        message = Path(folder, "exit_message")
        message.touch()
        with LaunchScreen(Path(folder), processes) as screen:
            code = _run(launch_command(argv, processes), {exit_message.FILE: str(message)} | screen.environment)
        last = exit_message.read_exit_message(message)
    if last is None and code == 0:
        say(f"error: {VANISHED}")
        return PluginError.exit_code
    if last is None or code == 0:
        return code
    last.print()
    return last.exit_code


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    settings = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": PATIENCE} | os.environ | environment | child_of_this_process()
    launcher: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if launcher is None:
            early.append(number)
        else:
            _forward(number, launcher)

    before = {number: signal.signal(number, forward) for number in FORWARDED if _is_enabled(number)}
    try:
        # In a separate process group: the terminal signals this process only, which forwards the signal once.
        with subprocess.Popen(command, env=settings, process_group=0) as launcher:
            for number in early:
                _forward(number, launcher)
            code = launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        say(f"error: the launcher was ended by {signal.Signals(-code).name}; its processes stop after their step")
    return code if code >= 0 else 128 - code


def _is_enabled(number: int) -> bool:
    """Whether the signal is not ignored, as `nohup` ignores SIGHUP."""
    return signal.getsignal(number) not in (signal.SIG_IGN, None)


def _forward(number: int, launcher: "subprocess.Popen[bytes]") -> None:
    """Send it to all processes, as a terminal would; SIGTERM to the launcher, which ends the others in order."""
    with suppress(ProcessLookupError):  # they have just exited
        if number == signal.SIGTERM:
            launcher.send_signal(number)
        elif number == signal.SIGTSTP:
            os.killpg(launcher.pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)  # until `fg` or `bg`
            os.killpg(launcher.pid, signal.SIGCONT)
        else:
            os.killpg(launcher.pid, number)


def calling_script() -> str | None:
    """The script that called ``main``, which is launched itself; None for ``skyrl train``, a notebook and a prompt."""
    script, has_file = sys.argv[0], getattr(sys.modules["__main__"], "__file__", None) is not None
    return script if has_file and script.endswith(".py") and not script.endswith("main_base.py") else None


def launch_command(argv: Sequence[str], processes: int) -> list[str]:
    """The launcher's command line for the script that called ``main``, or for the module behind ``skyrl train``."""
    script = calling_script()
    program = ["-m", MAIN] if script is None else [script]
    return [sys.executable, "-m", LAUNCHER, str(processes), *program, *_without_option(argv)]


def _without_option(argv: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in argv:
        if not skip and argument != OPTION and not argument.startswith(f"{OPTION}="):
            kept.append(argument)
        skip = argument == OPTION
    return kept
