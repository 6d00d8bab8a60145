"""An answer of a model as people read it: nothing in it can steer a terminal or hide in a page."""

from skyrl_core.discovery import printable


def answer_text(text: str, limit: int) -> str:
    """The text in lines, hidden characters as backslash escapes, cut after ``limit`` characters; says how many more."""
    shown, more = printable(text[:limit], escape=True, lines=True), len(text) - limit
    return f"{shown} … ({more:,} more characters)" if more > 0 else shown
