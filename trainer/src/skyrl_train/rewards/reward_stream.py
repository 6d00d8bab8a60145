"""Computes rewards of samples as they arrive: a thread drives the workers while others are generated."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe

from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_result import Score

Item = tuple[Completion, Row]


class CancelledError(Exception):
    """The stream was cancelled."""


class Inbox:
    """A queue of items for the thread that drives the workers. Any thread may put items."""

    def __init__(self) -> None:
        self.wakeup, self._wakeup_sender = Pipe(duplex=False)
        """Readable when ``take`` has something to return or raise."""
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._wakeup_sent = self._cancelled = False
        self.closed = False

    def put(self, item: Item) -> None:
        """Add an item."""
        with self._lock:
            self._items.append(item)
            self._wake()

    def close(self) -> None:
        """Promise that no more items follow."""
        with self._lock:
            self.closed = True
            self._wake()

    def cancel(self) -> None:
        """Make the next ``take`` raise."""
        with self._lock:
            self._cancelled = True
            self._wake()

    def take(self) -> tuple[list[Item], bool]:
        """The items that have arrived, and whether more may follow.

        Raises:
            CancelledError: ``cancel`` was called.
        """
        with self._lock:
            if self._wakeup_sent:
                self.wakeup.recv_bytes()
            self._wakeup_sent = False
            if self._cancelled:
                raise CancelledError
            items, self._items = self._items, []
            return items, not self.closed

    def release(self) -> None:
        """Close the pipe; ``take`` must not be called again."""
        with self._lock:
            self._wakeup_sent = True  # a later `put` must not write to the closed pipe
            self.wakeup.close()
            self._wakeup_sender.close()

    def _wake(self) -> None:
        # At most one message is in the pipe, so it is never full and sending never blocks.
        if not self._wakeup_sent:
            self._wakeup_sent = True
            self._wakeup_sender.send_bytes(b".")


class ScoreStream:
    """The scores of samples, each computed as soon as the sample is added."""

    def __init__(self, drive: Callable[[Inbox], list[Score]]) -> None:
        """Start the thread. ``drive`` takes items until no more follow, and returns scores in that order."""
        self._drive = drive
        self._inbox = Inbox()
        self._places: dict[int, int] = {}  # sample index -> position in the order of arrival
        self._adding = threading.Lock()
        self._result: Future[list[Score]] = Future()
        # A daemon: a failed run cancels the stream, and must be able to exit even if that fails.
        self._thread = threading.Thread(target=self._run, name="skyrl-rewards", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread still uses the workers or waits for them."""
        return self._thread.is_alive()

    def add(self, index: int, item: Item) -> None:
        """Add a sample under its index, from any thread; an index that was added before is ignored."""
        with self._adding:
            if index not in self._places:
                self._places[index] = len(self._places)
                self._inbox.put(item)

    def close(self) -> None:
        """Promise that no more samples follow."""
        self._inbox.close()

    def cancel(self) -> None:
        """Discard the scores; workers that are computing a reward are killed."""
        self._inbox.cancel()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout)

    def scores(self) -> list[Score]:
        """Wait for all scores, in the order of the sample indices, not of arrival.

        Raises:
            SkyrlError: as ``Scorer.score`` does.
        """
        self.close()
        try:
            scores = self._result.result()
        except BaseException:
            # For example Ctrl-C: free the workers for the next stream.
            self.cancel()
            self.join()
            raise
        return [scores[self._places[index]] for index in sorted(self._places)]

    def _run(self) -> None:
        try:
            self._result.set_result(self._drive(self._inbox))
        except BaseException as error:  # noqa: BLE001 - `scores` raises it in the thread that waits
            self._result.set_exception(error)
        finally:
            self._inbox.release()
