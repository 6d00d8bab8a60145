"""output.log: every line that a run prints, its plugins and libraries included. Limited in size."""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

NAME = "output.log"
MAX_BYTES = 5_000_000
"""Of a file; then it is renamed to output.log.1, which replaces the one before."""
MAX_WAITING = 1000
"""Lines that are kept until the run folder exists."""


class OutputLog:
    """The log of the run of this process. A disk that is full ends no run: lines are lost instead."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def open(self, folder: Path, rank: int) -> None:
        """Write to this run folder from now on, and what was printed before; each rank has a file."""
        self.close()
        self._path = folder / (NAME if rank == 0 else f"output.rank{rank}.log")
        waiting, self._waiting = list(self._waiting), deque(maxlen=MAX_WAITING)
        for line in waiting:
            self.write(line)

    def write(self, line: str) -> None:
        """Add a line."""
        if self._path is None:
            self._waiting.append(line)
            return
        with suppress(OSError, ValueError):
            if self._file is None:
                self._file = _opened(self._path)
            self._file.write(f"{line}\n".encode(errors="backslashreplace"))
            if self._file.tell() > MAX_BYTES:
                self._file.close()
                self._file = None
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))

    def close(self) -> None:
        """Close the file; later lines wait for the next run."""
        file, self._file, self._path = self._file, None, None
        if file is not None:
            with suppress(OSError):
                file.close()


def _opened(path: Path) -> BinaryIO:
    # Readable by the owner only: nobody knows what plugins print. Unbuffered, for a run that is killed.
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab", buffering=0)


OUTPUT_LOG = OutputLog()
"""The log of this process. Screens and captures of output write to it."""
