"""The session of a run's ranks: they start together, and all exit with the reason of the first that fails."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from skyrl_train.ranks.exit_message import ExitMessage
from skyrl_train.ranks.failure import exit_code, reports_failure
from skyrl_train.ranks.failure_board import FailureBoard
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.ranks.stopping import Interrupted, StopRequest
from skyrl_train.ranks.watchdog import Watchdog

CLOSING = 20.0
"""Seconds that other ranks wait for rank 0 to finish run.json: a launcher kills all ranks once one has exited."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """This process as one of the ranks of a run."""

    ranks: Ranks
    board: FailureBoard
    stop: StopRequest
    watchdog: Watchdog
    on_start: Callable[[Path], None]  # receives the run folder

    def reports_failure(self) -> AbstractContextManager[None]:
        """Report an error in the body before this rank closes any connection, which other ranks would notice."""
        return reports_failure(self.ranks, self.board, self.stop)


@contextmanager
def session(on_start: Callable[[Path], None] = lambda _: None, *, nccl_to_servers: bool = False) -> Iterator[Session]:
    """Join the other ranks, and exit together with them.

    Args:
        on_start: receives the run folder once it exists.
        nccl_to_servers: weights are sent to rollout servers over NCCL, perhaps to other machines.

    Raises:
        Interrupted: a signal ended the run, and rank 0 has printed how to resume it.
        SystemExit: an error on one of several ranks; it is on stderr already.
        Exception: the error of the only rank.
    """
    ranks = Ranks.start(nccl_to_servers=nccl_to_servers)
    board = FailureBoard(ranks)
    try:
        with (
            StopRequest(ranks, urgent=lambda: board.read() is not None) as stop,
            Watchdog(ranks, board, stop) as watchdog,
            _exit_message(ranks, board, watchdog),
            reports_failure(ranks, board, stop),
        ):
            yield Session(ranks=ranks, board=board, stop=stop, watchdog=watchdog, on_start=on_start)
    finally:
        ranks.end_run()


@contextmanager
def _exit_message(ranks: Ranks, board: FailureBoard, watchdog: Watchdog) -> Iterator[None]:
    try:
        yield
        if ranks.is_main and ranks.world_size > 1:
            ExitMessage(exit_code=0).print()
    except Interrupted as stop:
        if ranks.is_main:
            text = f"interrupted by {stop.signal.name}{watchdog.resume_hint()}"
            ExitMessage(exit_code=stop.exit_code, text=text).print()
            board.close()
        else:
            board.wait_until_closed(CLOSING)
        raise
    except Exception as error:
        if ranks.world_size == 1:
            raise
        if ranks.is_main:
            ExitMessage(exit_code=exit_code(error)).print()
            board.close()
        raise SystemExit(exit_code(error)) from error
