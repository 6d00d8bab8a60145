"""The failure of one rank ends all ranks: it prints its reason in full, the others print its first line."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from skyrl_core.discovery import exits_as_errors, safe_to_print, with_traceback
from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.failure_board import ExitReason, FailureBoard
from skyrl_train.ranks.ranks import LOST, RankLost, Ranks, is_broken_collective
from skyrl_train.ranks.stopping import Interrupted, StopRequest
from skyrl_train.tracking.stderr import say

EXPLANATION = 8.0
"""Seconds to wait for a reason after a collective broke. A failing rank posts one before it exits; for a killed rank,
the watchdog of another rank on its machine posts it."""

UNKNOWN = 10.0
"""Seconds to wait for the reason of a rank that has claimed the failure board."""


class RankFailed(SkyrlError):
    """Another rank failed first, for this reason."""

    def __init__(self, notice: ExitReason) -> None:
        super().__init__(f"rank {notice.rank} failed: {notice.line}")
        self.exit_code = notice.exit_code


@contextmanager
def reports_failure(ranks: Ranks, board: FailureBoard, stop: StopRequest) -> Iterator[None]:
    """Print and post the reason of a failure before any other rank could notice the failure itself.

    Raises:
        RankFailed: another rank was the first to fail.
        Interrupted: a signal ended this rank, or ended another rank first.
        Exception: this rank was the first to fail.
    """
    try:
        with exits_as_errors():
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
        _print(ranks, f"error: {failed}")
        raise failed from error


def _first(error: Exception | Interrupted, ranks: Ranks, board: FailureBoard, *, lost: bool) -> ExitReason | None:
    """The reason of the rank that failed first; None if this rank did and has printed its reason."""
    notice = board.read(patience=EXPLANATION if lost else 0.0)
    if notice is not None:
        return None if notice.rank == ranks.rank else notice
    claimed_by = board.claim()
    if claimed_by != ranks.rank:
        unknown = ExitReason(rank=claimed_by, message="it gave no reason", exit_code=1)
        return board.read(patience=UNKNOWN) or unknown
    if lost and not isinstance(error, RankLost):
        error.add_note(LOST)
    if isinstance(error, SkyrlError):
        _print(ranks, f"error: {with_traceback(error)}")
    elif not isinstance(error, Interrupted):
        _print(ranks, "failed:\n" + "".join(traceback.format_exception(error)).rstrip())
    # Posted after it is printed, so that the lines of the other ranks follow it.
    number = int(error.signal) if isinstance(error, Interrupted) else None
    board.post(ExitReason(rank=ranks.rank, message=_message(error), exit_code=exit_code(error), signal=number))
    return None


def exit_code(error: BaseException) -> int:
    """The exit code for this error; 1 is Python's exit code for a traceback."""
    return error.exit_code if isinstance(error, SkyrlError | Interrupted) else 1


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, SkyrlError) else f"{type(error).__name__}: {error}"


def _print(ranks: Ranks, text: str) -> None:
    say(f"[rank {ranks.rank}] {safe_to_print(text)}")
