"""How the end of one rank ends all: its reason is said once, in full, and the others leave with it in one line."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.failure_board import ExitReason, FailureBoard
from skyrl_train.ranks.interruption import Interrupted
from skyrl_train.ranks.ranks import LOST, RankLost, Ranks, is_broken_collective
from skyrl_train.ranks.stopping import StopRequest
from skyrl_train.tracking.stderr import say

EXPLANATION = 8.0
"""Seconds in which the notice must be there when a collective breaks: a rank posts it before it leaves; one that was
killed is missed by those beside it."""

UNKNOWN = 10.0
"""Seconds in which a rank that has claimed the board must have written down why it ends."""


class RankFailed(SkyrlError):
    """Another rank has ended first, for this reason."""

    def __init__(self, notice: ExitReason) -> None:
        super().__init__(f"rank {notice.rank} has failed: {notice.line}")
        self.exit_code = notice.exit_code


@contextmanager
def announced(ranks: Ranks, board: FailureBoard, stop: StopRequest) -> Iterator[None]:
    """Whatever ends the body is said on stderr and on the board, before anything that the others could notice.

    Raises:
        RankFailed: another rank was the first to fail.
        Interrupted: a signal ended this rank, or another one first.
        Exception: what ended this rank first.
    """
    try:
        yield
        stop.over = True
    except (Exception, Interrupted) as error:
        stop.over, stop.lost = True, is_broken_collective(error)
        known = isinstance(error, RankFailed) or (isinstance(error, Interrupted) and error.agreed)
        if known or ranks.world_size == 1:
            raise
        first = _first(error, ranks, board, lost=stop.lost)
        if first is None or first.message == _message(error):
            raise
        if first.signal is not None:
            raise Interrupted(first.signal) from error
        failed = RankFailed(first)
        _say(ranks, f"error: {failed}")
        raise failed from error


def _first(error: Exception | Interrupted, ranks: Ranks, board: FailureBoard, *, lost: bool) -> ExitReason | None:
    """The notice of the rank that ended first; None if that is this one, which has then said why."""
    notice = board.read(patience=EXPLANATION if lost else 0.0)
    if notice is not None:
        return None if notice.rank == ranks.rank else notice
    claimed_by = board.claim()
    if claimed_by != ranks.rank:
        unknown = ExitReason(rank=claimed_by, message="it has not said why", exit_code=1)
        return board.read(patience=UNKNOWN) or unknown
    if lost and not isinstance(error, RankLost):
        error.add_note(LOST)
    if isinstance(error, SkyrlError):
        _say(ranks, f"error: {error}")
    elif not isinstance(error, Interrupted):
        _say(ranks, "failed:\n" + "".join(traceback.format_exception(error)).rstrip())
    # After it was said: what the others say about it comes below.
    number = int(error.signal) if isinstance(error, Interrupted) else None
    board.post(ExitReason(rank=ranks.rank, message=_message(error), exit_code=exit_code(error), signal=number))
    return None


def exit_code(error: BaseException) -> int:
    """The exit code of a process that this error ends; 1 is Python's own for a traceback."""
    return error.exit_code if isinstance(error, SkyrlError | Interrupted) else 1


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, SkyrlError) else f"{type(error).__name__}: {error}"


def _say(ranks: Ranks, text: str) -> None:
    say(f"[rank {ranks.rank}] {text}")
