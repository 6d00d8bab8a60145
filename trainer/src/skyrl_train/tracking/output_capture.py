"""Everything that this process prints on the terminal, as lines: also from C code, loggers and child processes."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

KEEPER = "trap '' INT TERM HUP QUIT; cat >/dev/null; printf '\\n\\033[?25h'; cat <&{pipe}"
"""Waits until this process has ended, however it ends, then shows the cursor and prints what it has not."""
DELAY = 0.05
"""Seconds that output stays in the pipe. C code that aborts has just written why; what is in the pipe is not lost."""
PATIENCE = 1.0
"""Seconds to wait at the end for lines that are on their way."""


class OutputCapture:
    """Redirects the file descriptors 1 and 2, where they are the terminal, into a pipe that a thread reads.

    ``terminal`` is a stream that still writes to the terminal. The last lines of a process that is killed, or that
    aborts in C code, would be lost in the pipe; a small shell process prints them.
    """

    def __init__(self, line: Callable[[str], None]) -> None:
        """``line`` is called in a thread for each line, without its end."""
        self._line = line
        _flush()
        self._saved = {number: os.dup(number) for number in (1, 2) if _is_terminal(number)}
        self.terminal: TextIO = os.fdopen(
            os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace", newline=""
        )
        self._read, write = os.pipe()
        alive, self._alive = os.pipe()
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER.format(pipe=self._read)],
            stdin=alive,
            stdout=self._saved[1],
            stderr=subprocess.DEVNULL,
            pass_fds=(self._read,),
        )
        os.close(alive)
        for number in self._saved:
            os.dup2(write, number)
        os.close(write)
        self._thread = threading.Thread(target=self._forward, name="skyrl-output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Print after everything that was printed before."""
        _flush()
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(1, data) :]

    def close(self) -> None:
        """Give the terminal back, after the lines that are on their way."""
        _flush()
        for number, saved in self._saved.items():
            os.dup2(saved, number)
            os.close(saved)
        self._saved.clear()
        self._thread.join(PATIENCE)  # a child process that is still running keeps the pipe open
        self._keeper.kill()
        self._keeper.wait()
        os.close(self._alive)

    def _forward(self) -> None:
        rest = b""
        while chunk := self._next():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line)
        if rest:
            self._emit(rest)
        os.close(self._read)

    def _next(self) -> bytes:
        """What was printed; empty at the end."""
        select.select([self._read], [], [])
        time.sleep(DELAY)
        try:
            return os.read(self._read, 65536)
        except OSError:
            return b""

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip("\r")
        with suppress(OSError, ValueError):  # the terminal was closed
            self._line(text.rpartition("\r")[2])  # what a terminal would show of a line that rewrites itself


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False
