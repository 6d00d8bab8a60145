"""Bytes that anything printed, as printable lines of limited length without secrets."""

from collections.abc import Callable

from skyrl_core.discovery import printable_line
from skyrl_core.redaction import redact_text

MAX_BYTES = 2000
"""Of a line; the rest is counted, not kept, so that output without line breaks takes no memory."""


class OutputLines:
    """Splits output into lines and passes each on, without its end."""

    def __init__(self, line: Callable[[str], None], *, colours: bool = False) -> None:
        """``line`` gets each line; ``colours`` keeps the escape sequences of colours, and no others."""
        self._line = line
        self._colours = colours
        self._rest = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take output in the order in which it was printed."""
        *lines, last = data.split(b"\n")
        for part in lines:
            self._append(part)
            self._emit()
        self._append(last)

    def end(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self._emit()

    def _append(self, part: bytes) -> None:
        # A terminal shows only the last state of a line that rewrites itself, such as a progress bar.
        if self._rest.endswith(b"\r") and part.strip(b"\r"):
            self._clear()
        kept = part.rstrip(b"\r").rfind(b"\r")
        if kept >= 0:
            self._clear()
            part = part[kept + 1 :]
        room = MAX_BYTES - len(self._rest)
        self._rest += part[:room]
        self._dropped += len(part[room:])

    def _emit(self) -> None:
        text = self._rest.decode(errors="backslashreplace").rstrip("\r")
        more = f" ... ({self._dropped:,} more bytes)" if self._dropped else ""
        self._clear()
        self._line(redact_text(printable_line(text, colours=self._colours)) + more)

    def _clear(self) -> None:
        self._rest.clear()
        self._dropped = 0
