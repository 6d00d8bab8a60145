"""Ends a process whose parent was killed: no launcher, rank or worker outlives its run. Imports no torch.

A parent that is killed with SIGKILL can notify nobody, so each child looks. The system's parent-death signal (prctl)
exists on Linux only, and is sent when the thread that started the child ends, not when the process does.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

PARENT = "SKYRL_PARENT"
"""Environment variable with the process id of the parent, in case it is killed before the child looks."""

PERIOD = 1.0
"""Seconds between two looks at the parent."""


def watch_parent(orphaned: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM)) -> None:
    """Call ``orphaned`` in a thread once the parent of this process is gone; the default stops it in order."""
    parent = int(os.environ.pop(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PERIOD)
        orphaned()

    threading.Thread(target=watch, name="skyrl-parent", daemon=True).start()


def child_of_this_process() -> dict[str, str]:
    """The environment variable for a child that this process starts."""
    return {PARENT: str(os.getpid())}


def kill_own_group() -> None:
    """Kill every process of this process's group, which the process leads."""
    os.killpg(os.getpid(), signal.SIGKILL)
