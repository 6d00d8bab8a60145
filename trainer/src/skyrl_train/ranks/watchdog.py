"""Ends a rank that cannot end itself: its main thread waits inside a library for a rank that has gone, or is too slow.

A thread of every rank reads the notice board and hears the signals. Python runs a signal handler between two lines of
the main thread; a collective can keep it from there for half an hour, and a launcher kills what is not gone in time.
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
"""Seconds between two looks at the board."""

MISSED = 2
"""Looks after which a rank without a process has surely not just ended as it should."""

STUCK = 10.0
"""Seconds after a notice in which the main thread must have begun to end."""

ENDING = 25.0
"""Seconds after a notice in which it must be done."""

MARGIN = 5.0
"""Seconds before the launcher's kill in which a rank writes down that it was ended."""

PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Environment variable with the seconds between a launcher's signal and its kill; torchrun reads it too."""


class RunRecord(Protocol):
    """What the watchdog asks of the record of a run."""

    def abandon(self, outcome: Literal["interrupted", "failed"], reason: str | None) -> None:
        """Write down how the run ended."""
        ...

    def resume_hint(self) -> str:
        """The end of a sentence about an interruption: how to resume."""
        ...


class Watchdog:
    """The thread, and the journal that it may have to close. One process alone needs none."""

    def __init__(self, ranks: Ranks, board: FailureBoard, stop: StopRequest) -> None:
        """Collective."""
        self.record: RunRecord | None = None  # as soon as there is one
        self._ranks, self._board, self._stop = ranks, board, stop
        self._siblings = Siblings(ranks)
        self._missed = 0  # looks in a row at which one of them was gone
        self._patience = float(os.environ.get(PATIENCE, "30")) - MARGIN
        self._own, self._other = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="skyrl-watch", daemon=True)

    def __enter__(self) -> Self:
        if self._ranks.world_size > 1:
            self._own.setblocking(False)
            self._other.setblocking(False)
            if self._stop.hears:
                self._before = signal.set_wakeup_fd(self._other.fileno(), warn_on_full_buffer=False)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            if self._stop.hears:
                signal.set_wakeup_fd(self._before)
            self._other.close()  # which the thread reads as the end
            self._thread.join()
        self._own.close()
        self._other.close()

    def resume_hint(self) -> str:
        """The end of a sentence about an interruption, on rank 0."""
        return self.record.resume_hint() if self.record is not None else " before training began"

    def _run(self) -> None:
        notice, noticed, kill = None, 0.0, None
        while (signals := self._wait()) is not None:
            now = time.monotonic()
            if signals and kill is None:
                kill = now + self._patience, signals[0]
            self._look_for_siblings()
            if notice is None and (notice := self._board.read()) is not None:
                noticed = now
                self._wake_main_thread()
            if notice is not None and now - noticed > (ENDING if self._stop.over else STUCK):
                self._end(notice)
            if kill is not None and now > kill[0]:
                self._end(
                    notice or ExitReason(rank=self._ranks.rank, message="", exit_code=128 + kill[1], signal=kill[1])
                )

    def _look_for_siblings(self) -> None:
        """Post a notice for a rank that cannot. Not at the end of a run, where each leaves in its own time."""
        leaving = self._stop.over and not self._stop.lost
        gone = None if leaving else self._siblings.gone()
        self._missed = 0 if gone is None else self._missed + 1
        if gone is not None and self._missed == MISSED and self._board.claim() == self._ranks.rank:
            message = "its process has ended without a word; was it killed, for lack of memory perhaps?"
            self._board.post(ExitReason(rank=gone, message=message, exit_code=1))

    def _wait(self) -> list[int] | None:
        """Numbers of the signals that arrive within a period; None at the end."""
        readable, _, _ = select.select([self._own], [], [], PERIOD)
        if not readable:
            return []
        received = self._own.recv(64)
        return [number for number in received if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] or (
            [] if received else None
        )

    def _wake_main_thread(self) -> None:
        main = threading.main_thread().ident
        if self._stop.hears and not self._stop.over and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)  # its handler finds the notice

    def _end(self, notice: ExitReason) -> None:
        """End this process from here, with the right words in run.json."""
        interrupted = notice.signal is not None
        reason = None if interrupted else f"rank {notice.rank} has failed: {notice.line}"
        words = ""
        try:
            if self.record is not None:
                self.record.abandon("interrupted" if interrupted else "failed", reason)
            if notice.signal is not None:
                words = f"interrupted by {signal.Signals(notice.signal).name}{self.resume_hint()}"
            if self._ranks.is_main:
                ExitMessage(exit_code=notice.exit_code, words=words).say()
            elif reason is not None:
                sys.stderr.write(f"[rank {self._ranks.rank}] error: {reason}\n")
                sys.stderr.flush()
        finally:
            os._exit(notice.exit_code)


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
