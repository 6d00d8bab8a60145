"""A run among its ranks, from where they meet to where they leave: together, each with the reason of the first."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from skyrl_train.training.failure import announced, exit_code
from skyrl_train.training.farewell import Farewell
from skyrl_train.training.interruption import Interrupted
from skyrl_train.training.notice import NoticeBoard
from skyrl_train.training.ranks import Ranks
from skyrl_train.training.stopping import StopRequest
from skyrl_train.training.watch import Watch

CLOSING = 20.0
"""Seconds that the ranks leave to rank 0, which closes the books: a launcher ends all of them once one is gone."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """This process among the ranks of its run."""

    ranks: Ranks
    board: NoticeBoard
    stop: StopRequest
    watch: Watch

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
    board = NoticeBoard(ranks)
    try:
        with (
            StopRequest(ranks, urgent=lambda: board.read() is not None) as stop,
            Watch(ranks, board, stop) as watch,
            _farewell(ranks, board, watch),
            announced(ranks, board, stop),
        ):
            yield Session(ranks=ranks, board=board, stop=stop, watch=watch)
    finally:
        ranks.leave()


@contextmanager
def _farewell(ranks: Ranks, board: NoticeBoard, watch: Watch) -> Iterator[None]:
    try:
        yield
    except Interrupted as stop:
        if ranks.is_main:
            words = f"interrupted by {stop.signal.name}{watch.how_to_go_on()}"
            Farewell(exit_code=stop.exit_code, words=words).say()
            board.close()
        else:
            board.wait_until_closed(CLOSING)
        raise
    except Exception as error:
        if ranks.world_size == 1:
            raise
        if ranks.is_main:
            Farewell(exit_code=exit_code(error)).say()
            board.close()
        raise SystemExit(exit_code(error)) from error
