"""A terminal window for a program: a pseudo-terminal whose screen is known after every byte."""

import fcntl
import os
import pty
import struct
import termios
import time
from dataclasses import dataclass

import pyte


@dataclass
class Window:
    """What a program has shown."""

    lines: list[str]  # with those that were scrolled away
    cursor_hidden: bool
    first_output: float  # seconds
    exit_code: int
    raw: bytes


def run_in_window(command, *, columns=80, rows=60, **environment) -> Window:
    pid, terminal = pty.fork()
    if pid == 0:
        keep = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        os.execvpe(command[0], command, {**keep, "TERM": "xterm-256color", **environment})
    started, first, raw = time.monotonic(), None, b""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    screen = pyte.HistoryScreen(columns, rows, history=1000)
    stream = pyte.ByteStream(screen)
    while chunk := _read(terminal):
        first = first or time.monotonic() - started
        raw += chunk
        stream.feed(chunk)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    above = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in (*above, *screen.display)]
    return Window(lines, screen.cursor.hidden, first or 0.0, code, raw)


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program and its children have exited
        return b""
