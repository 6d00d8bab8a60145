"""One reward worker as the trainer sees it: started, given work, listened to, killed."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_train.rewards.worker_main import Setup

MARK = "SKYRL_REWARD_WORKER"
"""Environment variable that tells a process that it is a reward worker."""

START_LIMIT = 120.0
"""Seconds in which a worker must be ready; it imports the environment, perhaps from a slow disk."""

_SEND_LIMIT = 60
"""Seconds in which a worker must take what is sent to it."""

_COMMAND = """
import sys
sys.path[:] = {path!r}
from skyrl_train.rewards.worker_main import serve
serve({descriptor}, {parent})
"""


class WorkerProcess:
    """A worker process and the work that it has.

    It is a fresh interpreter in a process group of its own: it holds no torch and no copy of the trainer's memory,
    Ctrl-C in a terminal does not reach it, and what a reward starts can be killed with it.
    """

    def __init__(self, setup: Setup) -> None:
        """Start it and send what it needs. It is ready when its first message arrives.

        Raises:
            SkyrlError: the system starts no further process.
        """
        own, other = socket.socketpair()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_LIMIT, 0))
        command = _COMMAND.format(path=sys.path, descriptor=other.fileno(), parent=os.getpid())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                pass_fds=[other.fileno()],
                process_group=0,
                stdin=subprocess.DEVNULL,
                env=os.environ | {MARK: "1"},
            )
        except OSError as error:
            own.close()
            raise SkyrlError(f"no reward worker could be started: {error}; lower environment.workers") from error
        finally:
            other.close()
        self.connection: Connection[Any, Any] = Connection(own.detach())
        self.ready = False
        self.tasks: deque[int] = deque()  # indices of the items that it has not answered yet, in order
        self.since = time.monotonic()  # when it began what it is doing
        with suppress(OSError):  # a worker that dies at once is found out by its closed connection
            self.connection.send(setup)

    @property
    def busy(self) -> bool:
        return not self.ready or bool(self.tasks)

    def expires(self, deadline: float) -> float:
        """The moment (monotonic seconds) at which it is overdue."""
        return self.since + (deadline if self.ready else START_LIMIT)

    def give(self, tasks: Sequence[int], payload: bytes) -> None:
        """Hand over pickled items.

        Raises:
            OSError: it is gone, or takes nothing.
        """
        self.tasks.extend(tasks)
        self.connection.send((len(tasks), payload))
        self.since = time.monotonic()

    def messages(self) -> list[Any]:
        """What has arrived, without waiting.

        Raises:
            EOFError, OSError: the worker is gone, and all that it sent was returned before.
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

    def fate(self) -> str:
        """How the process ended, for a message. Call it when the connection is closed."""
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "closed the connection of its worker process"
        if code >= 0:
            return f"ended its worker process with exit code {code}"
        with suppress(ValueError):  # a number without a name here
            return f"ended its worker process with signal {signal.Signals(-code).name}"
        return f"ended its worker process with signal {-code}"

    def ask_to_stop(self) -> None:
        """Let an idle worker leave by itself, so that what its environment holds is closed."""
        with suppress(OSError):  # it has left already
            self.connection.send(None)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        with suppress(ProcessLookupError, PermissionError):  # it is gone; its group may be too
            os.killpg(self._process.pid, signal.SIGKILL)
        self.connection.close()
        self._process.wait()
