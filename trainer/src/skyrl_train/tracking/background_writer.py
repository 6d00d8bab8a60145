"""Writes files in a thread, one job at a time, so that no training step waits for a disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Holds at most one job: a disk that is slower than the steps slows them down but does not use up memory."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skyrl-writer")
        self._writing: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start a job, after the previous one is on disk.

        Raises:
            RunFolderError: the previous job could not write its file.
        """
        self.wait()
        self._writing = self._thread.submit(work)

    def wait(self) -> None:
        """Block until everything is on disk.

        Raises:
            RunFolderError: a file could not be written. Raised once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def latest(self) -> Future[None]:
        """A future that is done once everything so far is on disk. Unlike ``wait``, any thread may use it."""
        if self._writing is not None:
            return self._writing
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def close(self) -> None:
        """End the thread. Call ``wait`` first."""
        self._thread.shutdown()
