"""The ranks that this launcher has started on this machine, and which of them is gone without having said why."""

import os
import socket

from skyrl_train.training.ranks import Ranks


class Siblings:
    """Their process ids. One that is killed, for lack of memory perhaps, can tell nobody; its launcher says SIGTERM."""

    def __init__(self, ranks: Ranks) -> None:
        """Collective."""
        # The parent too, for process ids of another container on this machine mean nothing here.
        place = (socket.gethostname(), os.getppid())
        others = ranks.gather((place, os.getpid()))
        self._processes = {
            rank: process for rank, (where, process) in enumerate(others) if where == place and rank != ranks.rank
        }

    def gone(self) -> int | None:
        """The first rank that has no process any more."""
        return next((rank for rank, process in self._processes.items() if not _runs(process)), None)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
