"""The output stream of the console: a terminal or a plain stream, in any encoding."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleDimensions

from skyrl_train.tracking.relayed_display import TERMINAL

PLAIN_WIDTH = 100


def _nowhere() -> TextIO:
    """A stream for processes that were started with standard output closed."""
    return open(os.devnull, "w", encoding="utf-8")


class Terminal(Console):
    """A rich console that never exits the process and writes escape sequences only to a terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        stream = file or sys.stdout or _nowhere()
        # Standard output is a pipe to the command that started several processes, which shows it on this terminal.
        path = os.environ.get(TERMINAL) if file is None else None
        self._relayed = open(path, "rb") if path else None  # noqa: SIM115 - open as long as the console
        self.live = (stream.isatty() or self.is_relayed) and os.environ.get("TERM", "") not in ("dumb", "unknown")
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            # A character that the stream cannot encode must not end the training. Once only: a stream that was a file
            # fails here if its descriptor is a pipe now.
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

    @property
    def is_relayed(self) -> bool:
        """Whether another process shows the live display."""
        return self._relayed is not None

    def twin(self, file: TextIO) -> Console:
        """A console without a live display that writes to another stream what this one would write."""
        return Console(
            file=file,
            force_terminal=True,
            force_jupyter=False,
            color_system=cast(Any, self.color_system),
            no_color=self.no_color,
            width=self.width,
            highlight=False,
        )

    def is_stdout(self) -> bool:
        """Whether this writes to the standard output of the process, which libraries print to as well."""
        try:
            return self.file.fileno() == 1
        except (AttributeError, OSError, ValueError):
            return False

    @property
    def size(self) -> ConsoleDimensions:
        """The size of this terminal: while output is captured, rich would find no terminal to ask."""
        if self.live and "COLUMNS" not in os.environ:
            with suppress(AttributeError, OSError, ValueError):
                return ConsoleDimensions(*os.get_terminal_size((self._relayed or self.file).fileno()))
        return super().size

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        Console.size.fset(self, new_size)  # type: ignore[attr-defined]

    def on_broken_pipe(self) -> None:
        """Handles an exited reader, as in ``skyrl train | head``: stops printing and lets the caller decide.

        Raises:
            BrokenPipeError: always. rich would exit the process and so end the training.
        """
        self.quiet = True
        if self.file is sys.stdout:
            # Otherwise any later print, and the flush at exit, would raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError("the reader of standard output has exited")
