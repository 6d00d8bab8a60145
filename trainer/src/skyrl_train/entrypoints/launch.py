"""Starts a run on several processes of this machine, through accelerate's launcher."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from skyrl_train.training import farewell

MAIN = "skyrl_train.entrypoints.main_base"
OPTION = "--num-processes"


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in os.environ


PATIENCE = "600"
"""Seconds that the launcher leaves its processes to finish a training step when they are asked to stop."""


def launch(argv: Sequence[str], processes: int) -> int:
    """Run the same command line on that many processes; returns the exit code when all have ended.

    Ctrl-C reaches the launcher through the terminal; SIGTERM is passed on, so that they end in order.
    """
    with tempfile.TemporaryDirectory(prefix="skyrl-") as folder:
        words = Path(folder, "farewell")
        words.touch()
        code = _run(launch_command(argv, processes), {farewell.FILE: str(words)})
        last = farewell.heard(words)
    if last is None or code == 0:
        return code
    last.say()
    return last.exit_code


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    settings = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": PATIENCE} | os.environ | environment
    with subprocess.Popen(command, env=settings) as launcher:
        before = signal.signal(signal.SIGTERM, lambda number, _: launcher.send_signal(number))
        try:
            while True:
                try:
                    return launcher.wait()
                except KeyboardInterrupt:
                    continue  # the processes have heard it too, and say what they do about it
        finally:
            signal.signal(signal.SIGTERM, before)


def launch_command(argv: Sequence[str], processes: int) -> list[str]:
    """What accelerate is asked to run: the script that called ``main``, or the module that ``skyrl train`` is."""
    script = sys.argv[0]
    program = [script] if script.endswith(".py") and not script.endswith("main_base.py") else ["-m", MAIN]
    settings = {
        "--num_processes": str(processes),
        "--num_machines": "1",
        "--mixed_precision": "no",
        "--dynamo_backend": "no",
        # Two runs on one machine must not meet at the default port.
        "--main_process_port": str(_free_port()),
    }
    options = [part for setting in settings.items() for part in setting]
    return [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--use_deepspeed",
        *options,
        *program,
        *_without_option(argv),
    ]


def _without_option(argv: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in argv:
        if not skip and argument != OPTION and not argument.startswith(f"{OPTION}="):
            kept.append(argument)
        skip = argument == OPTION
    return kept


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
