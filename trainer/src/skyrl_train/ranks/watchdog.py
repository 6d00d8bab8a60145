"""Ends a rank whose main thread cannot: it waits inside a library for a rank that is gone, or it is too slow.

A thread of every rank reads the failure board and receives the signals. Python runs signal handlers in the main thread
only; a collective can block it for half an hour, and a launcher kills processes that do not exit in time.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Literal, Protocol, Self

from skyrl_train.ranks.exit_message import ExitMessage
from skyrl_train.ranks.failure_board import ExitReason, FailureBoard
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.stopping import StopRequest

PERIOD = 2.0
"""Seconds between two reads of the board."""

MISSED = 2
"""Reads after which a rank whose process is gone cannot be in the middle of a normal exit."""

STUCK = 10.0
"""Seconds after a failure in which the main thread must begin to exit."""

ENDING = 25.0
"""Seconds after a failure in which it must have exited."""

MARGIN = 5.0
"""Seconds before the launcher kills a rank, in which the rank records how the run ended."""

PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Environment variable: seconds between a launcher's signal and its kill. torchrun reads it too."""


class RunRecord(Protocol):
    """What the watchdog asks of the record of a run."""

    def abandon(self, outcome: Literal["interrupted", "failed"], reason: str | None) -> None:
        """Write down how the run ended."""
        ...

    def resume_hint(self) -> str:
        """The end of a sentence about an interruption: how to resume."""
        ...


class Watchdog:
    """The thread, and the record that it may have to finish. A run of one process has no thread."""

    def __init__(self, ranks: Ranks, board: FailureBoard, stop: StopRequest) -> None:
        """Collective."""
        self.record: RunRecord | None = None  # set once the run folder exists
        self._ranks, self._board, self._stop = ranks, board, stop
        self._neighbours = NeighbourProcesses(ranks)
        self._missed = 0  # reads in a row at which a rank was gone
        self._patience = float(os.environ.get(PATIENCE, "30")) - MARGIN
        self._read_end, self._write_end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="skyrl-watch", daemon=True)

    def __enter__(self) -> Self:
        if self._ranks.world_size > 1:
            self._read_end.setblocking(False)
            self._write_end.setblocking(False)
            if self._stop.handles_signals:
                self._before = signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            if self._stop.handles_signals:
                signal.set_wakeup_fd(self._before)
            self._write_end.close()  # the thread reads this as the end
            self._thread.join()
        self._read_end.close()
        self._write_end.close()

    def resume_hint(self) -> str:
        """The end of the sentence about an interruption: how to resume. For rank 0."""
        return self.record.resume_hint() if self.record is not None else " before training started"

    def _run(self) -> None:
        notice, noticed, kill = None, 0.0, None
        while (signals := self._wait()) is not None:
            now = time.monotonic()
            if signals and kill is None:
                kill = now + self._patience, signals[0]
            self._check_neighbours()
            if notice is None and (notice := self._board.read()) is not None:
                noticed = now
                self._wake_main_thread()
            if notice is not None and now - noticed > (ENDING if self._stop.over else STUCK):
                self._end(notice)
            if kill is not None and now > kill[0]:
                self._end(
                    notice or ExitReason(rank=self._ranks.rank, message="", exit_code=128 + kill[1], signal=kill[1])
                )

    def _check_neighbours(self) -> None:
        """Post a failure for a rank that was killed. Not at the end of a run, where ranks exit at different times."""
        leaving = self._stop.over and not self._stop.lost
        gone = None if leaving else self._neighbours.gone()
        self._missed = 0 if gone is None else self._missed + 1
        if gone is not None and self._missed == MISSED and self._board.claim() == self._ranks.rank:
            message = "its process exited without an error message; it may have run out of memory"
            self._board.post(ExitReason(rank=gone, message=message, exit_code=1))

    def _wait(self) -> list[int] | None:
        """The signals that arrive within a period; None once the watchdog is closed."""
        readable, _, _ = select.select([self._read_end], [], [], PERIOD)
        if not readable:
            return []
        received = self._read_end.recv(64)
        return [number for number in received if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] or (
            [] if received else None
        )

    def _wake_main_thread(self) -> None:
        main = threading.main_thread().ident
        if self._stop.handles_signals and not self._stop.over and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)  # its handler reads the board

    def _end(self, notice: ExitReason) -> None:
        """Record in run.json how the run ended, and exit this process."""
        interrupted = notice.signal is not None
        reason = None if interrupted else f"rank {notice.rank} failed: {notice.line}"
        text = ""
        try:
            if self.record is not None:
                self.record.abandon("interrupted" if interrupted else "failed", reason)
            if notice.signal is not None:
                text = f"interrupted by {signal.Signals(notice.signal).name}{self.resume_hint()}"
            if self._ranks.is_main:
                ExitMessage(exit_code=notice.exit_code, text=text).print()
            elif reason is not None:
                sys.stderr.write(f"[rank {self._ranks.rank}] error: {reason}\n")
                sys.stderr.flush()
        finally:
            os._exit(notice.exit_code)


class NeighbourProcesses:
    """The other ranks on this machine. One that is killed, for example out of memory, cannot post its reason."""

    def __init__(self, ranks: Ranks) -> None:
        """Collective."""
        # The parent too, because process ids of another container on this machine mean nothing here.
        place = (socket.gethostname(), os.getppid())
        others = ranks.gather((place, os.getpid()))
        self._processes = {
            rank: process for rank, (where, process) in enumerate(others) if where == place and rank != ranks.rank
        }

    def gone(self) -> int | None:
        """The first rank whose process no longer exists."""
        return next((rank for rank, process in self._processes.items() if not _exists(process)), None)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
