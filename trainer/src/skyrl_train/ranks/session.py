"""A run among its ranks, from where they meet to where they leave: together, each with the reason of the first."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from skyrl_train.ranks.exit_message import ExitMessage
from skyrl_train.ranks.failure import announced, exit_code
from skyrl_train.ranks.failure_board import FailureBoard
from skyrl_train.ranks.interruption import Interrupted
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.stopping import StopRequest
from skyrl_train.ranks.watchdog import Watchdog

CLOSING = 20.0
"""Seconds that the ranks leave to rank 0, which closes the books: a launcher ends all of them once one is gone."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """This process among the ranks of its run."""

    ranks: Ranks
    board: FailureBoard
    stop: StopRequest
    watchdog: Watchdog

    def announced(self) -> AbstractContextManager[None]:
        """What ends the body is said before this rank closes anything, which the others would notice first."""
        return announced(self.ranks, self.board, self.stop)


@contextmanager
def session() -> Iterator[Session]:
    """Meet the other ranks; leave with them.

    Raises:
        Interrupted: a signal has ended the run, and rank 0 has said how to go on.
        SystemExit: on one of several ranks, in the place of an error: it is on stderr already.
        Exception: what ended the only rank.
    """
    ranks = Ranks.start()
    board = FailureBoard(ranks)
    try:
        with (
            StopRequest(ranks, urgent=lambda: board.read() is not None) as stop,
            Watchdog(ranks, board, stop) as watchdog,
            _exit_message(ranks, board, watchdog),
            announced(ranks, board, stop),
        ):
            yield Session(ranks=ranks, board=board, stop=stop, watchdog=watchdog)
    finally:
        ranks.leave()


@contextmanager
def _exit_message(ranks: Ranks, board: FailureBoard, watchdog: Watchdog) -> Iterator[None]:
    try:
        yield
    except Interrupted as stop:
        if ranks.is_main:
            words = f"interrupted by {stop.signal.name}{watchdog.resume_hint()}"
            ExitMessage(exit_code=stop.exit_code, words=words).say()
            board.close()
        else:
            board.wait_until_closed(CLOSING)
        raise
    except Exception as error:
        if ranks.world_size == 1:
            raise
        if ranks.is_main:
            ExitMessage(exit_code=exit_code(error)).say()
            board.close()
        raise SystemExit(exit_code(error)) from error
