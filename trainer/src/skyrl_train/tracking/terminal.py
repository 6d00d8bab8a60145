"""The output stream of the console: a live terminal or a plain one, whatever it can encode."""

import io
import os
import sys
from typing import TextIO

from rich.console import Console

PLAIN_WIDTH = 100


def _nowhere() -> TextIO:
    """For a process whose standard output was closed when it was started."""
    return open(os.devnull, "w", encoding="utf-8")


class Terminal(Console):
    """A rich console that never ends the program and writes no escape sequence to anything but a terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        stream = file or sys.stdout or _nowhere()
        self.live = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
        if isinstance(stream, io.TextIOWrapper):
            # An answer with a character that the stream cannot encode must not end the training.
            stream.reconfigure(errors="backslashreplace")
        super().__init__(
            file=stream,
            force_terminal=self.live,
            force_jupyter=False,
            force_interactive=self.live,
            color_system="auto" if self.live else None,
            width=None if self.live else PLAIN_WIDTH,
            highlight=False,
        )

    def on_broken_pipe(self) -> None:
        """The reader has gone, as in ``skyrl train | head``: be quiet and let the caller decide.

        Raises:
            BrokenPipeError: always. rich would end the process, and with it the training.
        """
        self.quiet = True
        if self.file is sys.stdout:
            # The next print of anybody, and Python's own flush at exit, would raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError("the reader of standard output has gone")
