"""Rewards of samples that come one after the other: a thread drives the reward workers while others are decoded.

The deadline of a reward must not run while nobody reads what its worker sends. Whoever decodes is busy for seconds, so
it is a thread that reads, and waits for further items at the same time.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe

from skyrl_train.environments.environment import Completion, Row
from skyrl_train.rewards.reward_result import Score

Item = tuple[Completion, Row]


class CancelledError(Exception):
    """Nobody wants the scores any more."""


class Inbox:
    """Items on their way to the thread that drives the workers. Any thread may put them."""

    def __init__(self) -> None:
        self.bell, self._rope = Pipe(duplex=False)
        """Readable when there is something to take."""
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._rung = self._cancelled = False
        self.closed = False

    def put(self, item: Item) -> None:
        """One item more."""
        with self._lock:
            self._items.append(item)
            self._ring()

    def close(self) -> None:
        """No item comes after this."""
        with self._lock:
            self.closed = True
            self._ring()

    def cancel(self) -> None:
        """Make the next ``take`` raise."""
        with self._lock:
            self._cancelled = True
            self._ring()

    def take(self) -> tuple[list[Item], bool]:
        """What has arrived, and whether more may come.

        Raises:
            CancelledError: it was cancelled.
        """
        with self._lock:
            if self._rung:
                self.bell.recv_bytes()
            self._rung = False
            if self._cancelled:
                raise CancelledError
            items, self._items = self._items, []
            return items, not self.closed

    def release(self) -> None:
        """Give both ends back; nothing is taken any more."""
        with self._lock:
            self._rung = True  # whoever still puts something does not ring
            self.bell.close()
            self._rope.close()

    def _ring(self) -> None:
        # At most one message is in the pipe: it can never be full, whatever the reader does.
        if not self._rung:
            self._rung = True
            self._rope.send_bytes(b".")


class ScoreStream:
    """The scores of a number of samples, computed from the moment on at which each is there."""

    def __init__(self, drive: Callable[[Inbox], list[Score]]) -> None:
        """Start the thread. ``drive`` takes items until no more come, and returns their scores in that order."""
        self._drive = drive
        self._inbox = Inbox()
        self._places: dict[int, int] = {}  # of each sample, its number in the order of arrival
        self._adding = threading.Lock()
        self._result: Future[list[Score]] = Future()
        # A daemon: a run that ends with an error cancels it, and must not wait if it cannot.
        self._thread = threading.Thread(target=self._run, name="skyrl-rewards", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its thread still uses the workers, or waits for them."""
        return self._thread.is_alive()

    def add(self, index: int, item: Item) -> None:
        """A sample, under its index; one that is there already is left as it is. From any thread."""
        with self._adding:
            if index not in self._places:
                self._places[index] = len(self._places)
                self._inbox.put(item)

    def close(self) -> None:
        """All samples are there."""
        self._inbox.close()

    def cancel(self) -> None:
        """Nobody wants the scores. Rewards that are being computed are ended with their workers."""
        self._inbox.cancel()

    def join(self, timeout: float | None = None) -> None:
        """Wait until its thread has ended."""
        self._thread.join(timeout)

    def scores(self) -> list[Score]:
        """Wait for all scores, in the order of the indices, which do not depend on the order of arrival.

        Raises:
            SkyrlError: as ``Scorer.score`` does.
        """
        self.close()
        try:
            scores = self._result.result()
        except BaseException:
            # Ctrl-C, say: the workers are to be free for the next one.
            self.cancel()
            self.join()
            raise
        return [scores[self._places[index]] for index in sorted(self._places)]

    def _run(self) -> None:
        try:
            self._result.set_result(self._drive(self._inbox))
        except BaseException as error:  # noqa: BLE001 - of any kind: `scores` raises it in the thread that asks
            self._result.set_exception(error)
        finally:
            self._inbox.release()
