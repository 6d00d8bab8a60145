"""Colours of the terminal as ANSI codes, only where a terminal shows them.

Codes instead of rich, because importing rich takes 40 ms: half of the time of the entire `skyrl losses list`.
"""

import os
import sys
from types import TracebackType
from typing import Literal, TextIO

from skyrl_core.discovery.plugin_call import with_traceback

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33", "cyan": "36"}


class Styled(str):
    """Text with a style, which is applied after the text is measured and padded."""

    __slots__ = ("style",)
    style: Style

    def __new__(cls, text: str, style: Style) -> "Styled":
        styled = super().__new__(cls, text)
        styled.style = style
        return styled


def has_colour(stream: TextIO | None = None) -> bool:
    """Whether text for this stream, standard output by default, may contain colours.

    NO_COLOR turns colours off, FORCE_COLOR turns them on; an empty variable counts as unset. Otherwise only terminals
    get colours, and dumb ones do not.
    """
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR"):
        return False
    if forced := os.environ.get("FORCE_COLOR"):
        return forced != "0"
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def paint(text: str, style: Style, stream: TextIO | None = None) -> str:
    """The text in this style if the stream has colours."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and has_colour(stream) else text


def print_safe_tracebacks() -> None:
    """Print the traceback of an unexpected error without secrets and characters that control a terminal."""
    if sys.excepthook is not sys.__excepthook__:  # a debugger has replaced it
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        from traceback import format_exception

        from skyrl_core.printable_text import safe_to_print

        print(safe_to_print("".join(format_exception(kind, error, trace))), end="", file=sys.stderr)

    sys.excepthook = hook


def error_line(message: object) -> str:
    """An error for stderr, with its label in red, without secrets and characters that control a terminal.

    An exception is followed by its notes.
    """
    from skyrl_core.printable_text import safe_to_print  # a command without an error does not need it

    text = with_traceback(message) if isinstance(message, BaseException) else str(message)
    return f"{paint('error:', 'red', sys.stderr)} {safe_to_print(text)}"
