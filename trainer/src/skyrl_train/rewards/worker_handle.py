"""The trainer's handle of one reward worker: starts it, sends work, reads results and kills it."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_train.machine.parent_watch import child_of_this_process
from skyrl_train.rewards.running_item import RunningItem
from skyrl_train.rewards.worker_main import GRACE, Setup

WORKER_VARIABLE = "SKYRL_REWARD_WORKER"
"""Environment variable that marks a process as a reward worker."""

START_TIMEOUT = 120.0
"""Seconds for a worker to become ready; it imports the environment, perhaps from a slow disk."""

_SEND_TIMEOUT = 60
"""Seconds for a worker to receive a message."""

_COMMAND = """
import sys
sys.path[:] = {path!r}
from skyrl_train.rewards.running_item import RunningItem
from skyrl_train.rewards.worker_main import serve
serve({descriptor}, {running})
"""


def _hash_seed() -> str:
    """The same in all workers, so that no verdict depends on the order of a set in one of them."""
    configured = os.environ.get("PYTHONHASHSEED", "")
    return configured if configured.isdecimal() else "0"


class WorkerProcess:
    """A worker process and the work that was sent to it.

    It is a fresh interpreter in a separate process group: it holds no torch and no copy of the trainer's memory, Ctrl-C
    in a terminal does not reach it, and processes that a reward starts can be killed with it.
    """

    def __init__(self, setup: Setup) -> None:
        """Start the process and send the setup. It is ready when its first message arrives.

        Raises:
            SkyrlError: the system cannot start another process.
        """
        trainer_end, worker_end = socket.socketpair()
        trainer_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT, 0))
        self._running, running = RunningItem.create()
        command = _COMMAND.format(path=sys.path, descriptor=worker_end.fileno(), running=running)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                pass_fds=[worker_end.fileno(), running],
                process_group=0,
                stdin=subprocess.DEVNULL,
                env=os.environ | {WORKER_VARIABLE: "1", "PYTHONHASHSEED": _hash_seed()} | child_of_this_process(),
            )
        except OSError as error:
            trainer_end.close()
            raise SkyrlError(f"a reward worker could not be started: {error}; lower environment.workers") from error
        finally:
            worker_end.close()
            os.close(running)
        self.connection: Connection[Any, Any] = Connection(trainer_end.detach())
        self.ready = False
        self.tasks: dict[int, int] = {}  # index of each item without a result, by its position in the message
        self.awaits = False  # whether some of them run at the same time
        self.since = time.monotonic()  # when it began its current work
        with suppress(OSError):  # the closed connection of a worker that dies at once is noticed later
            self.connection.send(setup)

    @property
    def busy(self) -> bool:
        return not self.ready or bool(self.tasks)

    def expires(self, deadline: float) -> float:
        """The time, in monotonic seconds, at which the worker is overdue."""
        allowed = deadline + GRACE if self.awaits else deadline
        return self.since + (allowed if self.ready else START_TIMEOUT)

    def send(self, tasks: Sequence[int], payload: Sequence[bytes], *, awaits: bool) -> None:
        """Send pickled items; ``awaits``: the rewards of some run at the same time.

        Raises:
            OSError: the worker has ended or does not read.
        """
        self.tasks, self.awaits = dict(enumerate(tasks)), awaits
        self.connection.send(payload)
        self.since = time.monotonic()

    def messages(self) -> list[Any]:
        """The messages that have arrived, without waiting.

        Raises:
            EOFError, OSError: the worker has ended, and all its messages were returned before.
        """
        received: list[Any] = []
        try:
            while self.connection.poll():
                received.append(self.connection.recv())
        except (EOFError, OSError):
            if not received:
                raise
        if received:
            self.since = time.monotonic()
        return received

    def running(self) -> int | None:
        """The index of the awaited item that blocks or ended the process; None if that is not known."""
        position = self._running.position
        return None if position is None else self.tasks.get(position)

    def exit_message(self) -> str:
        """How the process ended, as part of a message. Call it after the connection was closed."""
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "closed the connection of its worker process"
        if code >= 0:
            return f"ended its worker process with exit code {code}"
        with suppress(ValueError):  # this system has no name for the signal
            return f"ended its worker process with signal {signal.Signals(-code).name}"
        return f"ended its worker process with signal {-code}"

    def ask_to_stop(self) -> None:
        """Ask an idle worker to exit by itself, so that its environment can close its resources."""
        with suppress(OSError):  # it has already ended
            self.connection.send(None)

    def kill(self) -> None:
        """Kill the worker and every process in its group."""
        with suppress(ProcessLookupError, PermissionError):  # it has ended, perhaps with its group
            os.killpg(self._process.pid, signal.SIGKILL)
        self.connection.close()
        self._process.wait()
