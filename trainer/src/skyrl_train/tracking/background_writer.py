"""Writes files in a thread, one piece of work at a time, so that no training step waits for a disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Holds at most one piece of work: a disk that is slower than the steps slows them down, but takes no memory."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skyrl-writer")
        self._writing: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, once the piece before it is on disk.

        Raises:
            RunFolderError: the piece before it could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(work)

    def wait(self) -> None:
        """Until everything is on disk.

        Raises:
            RunFolderError: it could not be written; said once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def latest(self) -> Future[None]:
        """Done once everything so far is on disk; for another thread, which `wait` is not."""
        if self._writing is not None:
            return self._writing
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def close(self) -> None:
        """End the thread. Call ``wait`` before."""
        self._thread.shutdown()
