"""Text from packages, configurations and models, made safe and short enough to print."""

import re

_MAX_CHARACTERS = 2000
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_COLOUR = r"(\x1b\[[0-9;]*m)"
_JOINERS = "\u200c\u200d"
LONGEST_LINE = 1000
"""Characters of a line of a message; a longer one loses its middle, because the rule that it breaks is at its end."""


def printable(text: str, *, escape: bool = False, lines: bool = False) -> str:
    """The text without escape sequences and control characters, so that it cannot control a terminal.

    Args:
        text: from anywhere.
        escape: show these characters as backslash escapes instead of dropping them.
        lines: keep line breaks, and the spaces and joiners that scripts and emoji need.
    """
    if text.isprintable():
        return text
    if lines:
        text = text.replace("\r\n", "\n").replace("\t", "    ")
    elif not escape:
        text = _ESCAPE_SEQUENCE.sub("", text).replace("\t", " ")
    return "".join(
        char if char.isprintable() or (lines and _belongs_in_prose(char)) else _escaped(char) if escape else ""
        for char in text
    )


def printable_line(text: str, *, colours: bool = False) -> str:
    """A line that something printed, without control characters and escape sequences; ``colours`` keeps theirs."""
    parts = re.split(_COLOUR, text)
    kept = [
        part if number % 2 and colours else "" if number % 2 else printable(_ESCAPE_SEQUENCE.sub("", part), lines=True)
        for number, part in enumerate(parts)
    ]
    return "".join(kept).replace("\n", " ")


def safe_to_print(text: str) -> str:
    """A message without secrets, as ``message_text``."""
    from skyrl_core.redaction import redact_text  # takes milliseconds that a listing does not need

    return message_text(redact_text(printable(text, escape=True, lines=True)))


def message_text(text: str) -> str:
    """A message of several lines: printable, and without the middle of overlong lines."""
    if len(text) <= LONGEST_LINE and text.isprintable():
        return text
    return "\n".join(map(_without_middle, printable(text, escape=True, lines=True).split("\n")))


def _without_middle(line: str) -> str:
    part = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:part]} … {line[-part:]}"


def shortened(text: str, cells: int, *, escape: bool = False) -> str:
    """The printable text, cut with an ellipsis to fit this many terminal cells, as in a table."""
    text = printable(text[:_MAX_CHARACTERS], escape=escape)
    if display_width(text) <= cells:
        return text
    text = text[:cells]
    while display_width(text) > cells - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def display_width(text: str) -> int:
    """Terminal cells that a text takes: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _belongs_in_prose(char: str) -> bool:
    from unicodedata import category

    return char == "\n" or char in _JOINERS or category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
