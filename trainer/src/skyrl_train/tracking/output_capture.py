"""Everything that this process prints, as safe lines: also from C code, loggers and child processes."""

import fcntl
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TextIO

from skyrl_train.tracking.output_lines import OutputLines
from skyrl_train.tracking.output_log import OUTPUT_LOG
from skyrl_train.tracking.relayed_display import TERMINAL

KEEPER = (
    "trap '' INT TERM HUP QUIT; cat >/dev/null; {before} "
    "tail -c 65536 <&{pipe} | LC_ALL=C tr -cd '\\012\\040-\\176' | cut -b 1-2000"
)
"""Waits until this process has ended, however it ends, then prints what it has not, as lines of ASCII text."""
SHOW_CURSOR = "printf '\\n\\033[?25h';"
DELAY = 0.05
"""Seconds that output stays in the pipe. C code that aborts has just written why; what is in the pipe is not lost."""
PATIENCE = 1.0
"""Seconds to wait at the end for lines that are on their way."""
PIPE_BYTES = 2**20
"""C code that prints while it holds the interpreter lock must not fill the pipe, because no thread can read it then."""
MAX_BUFFERED = 1_000_000
"""Bytes shown of what was printed during a short phase."""


class OutputPipe:
    """Replaces file descriptors by a pipe, which a thread reads. All of them must lead to the same place.

    The last lines of a process that is killed, or that aborts in C code, would be lost in the pipe; a small shell
    process prints them.
    """

    def __init__(
        self, numbers: list[int], line: Callable[[str], None], *, colours: bool = False, is_screen: bool = False
    ) -> None:
        """``line`` is called in a thread for each line, without its end."""
        _flush()
        self._lines = OutputLines(line, colours=colours)
        self._saved = {number: os.dup(number) for number in numbers}
        self._read, write = os.pipe()
        with suppress(OSError, AttributeError):  # not on this system, or more than this user may have
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        alive, self._alive = os.pipe()
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER.format(pipe=self._read, before=SHOW_CURSOR if is_screen else "")],
            stdin=alive,
            stdout=self._saved[numbers[0]],
            stderr=subprocess.DEVNULL,
            pass_fds=(self._read,),
        )
        os.close(alive)
        for number in self._saved:
            os.dup2(write, number)
        os.close(write)
        self._thread = threading.Thread(target=self._forward, name="skyrl-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restore the file descriptors, after the lines that are on their way."""
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
        with suppress(OSError, ValueError):  # the terminal was closed, or the reader of the output has exited
            while chunk := self._next():
                self._lines.feed(chunk)
            self._lines.end()
        while self._next():  # whoever prints must not wait for a reader
            pass
        os.close(self._read)

    def _next(self) -> bytes:
        """What was printed; empty at the end."""
        select.select([self._read], [], [])
        time.sleep(DELAY)
        try:
            return os.read(self._read, PIPE_BYTES)
        except OSError:
            return b""


class OutputCapture:
    """Redirects the file descriptors 1 and 2, where they are the terminal, into a pipe that a thread reads.

    ``terminal`` is a stream that still writes to the terminal.
    """

    def __init__(self, line: Callable[[str], None]) -> None:
        """``line`` is called in a thread for each line, without its end; it may have colours."""
        OUTPUT_LOG.close()  # of an earlier run in this process
        self.terminal: TextIO = os.fdopen(
            os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace", newline=""
        )
        numbers = [number for number in (1, 2) if _is_terminal(number)]

        def log_and_print(text: str) -> None:
            OUTPUT_LOG.write(text)
            line(text)

        self._pipe = OutputPipe(numbers, log_and_print, colours=True, is_screen=True)

    def write(self, text: str) -> None:
        """Print after everything that was printed before."""
        _flush()
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(1, data) :]

    def close(self) -> None:
        """Give the terminal back, after the lines that are on their way."""
        self._pipe.close()


@contextmanager
def safe_output() -> Iterator[None]:
    """Passes on what is printed in this block as safe lines, to pipes, files and dumb terminals as well."""
    OUTPUT_LOG.close()  # of an earlier run in this process
    places: dict[tuple[int, int], list[int]] = {}
    for number in (1, 2):
        with suppress(OSError):  # the descriptor is closed
            place = os.fstat(number)
            places.setdefault((place.st_dev, place.st_ino), []).append(number)
    with ExitStack() as stack:
        for numbers in places.values():
            target = os.dup(numbers[0])
            stack.callback(os.close, target)
            # The command that started several processes shows their lines on its terminal, with colours.
            pipe = OutputPipe(numbers, partial(_log_and_print, target), colours=TERMINAL in os.environ)
            stack.callback(pipe.close)
        yield


def _log_and_print(target: int, line: str) -> None:
    OUTPUT_LOG.write(line)
    data = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):  # its reader has exited; the log still gets every line
        while data:
            data = data[os.write(target, data) :]


@contextmanager
def buffered_output() -> Iterator[None]:
    """Prints what is printed in this short block on stderr, as safe lines, after its end: stdout is for the result."""
    with tempfile.TemporaryFile() as file:
        try:
            with _redirected(file.fileno()):
                yield
        finally:
            file.seek(0)
            lines = OutputLines(partial(_log_and_print, 2))
            lines.feed(file.read(MAX_BUFFERED))
            lines.end()


@contextmanager
def _redirected(target: int) -> Iterator[None]:
    saved: dict[int, int] = {}
    _flush()
    for number in (1, 2):
        with suppress(OSError):  # the descriptor is closed
            saved[number] = os.dup(number)
            os.dup2(target, number)
    try:
        yield
    finally:
        _flush()
        for number, before in saved.items():
            os.dup2(before, number)
            os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False
