"""Makes model output safe to show: it cannot control a terminal or hide text in a page."""

import unicodedata

# Cc: control, such as escape. Cf: format, such as right-to-left override. Cs: half a surrogate pair.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs"})
# Joiners that scripts and emoji need.
_HARMLESS = frozenset("\n\u200c\u200d")


def printable(text: str, *, limit: int | None = None) -> str:
    """The text with control and format characters escaped and tabs as spaces; newlines are kept.

    Args:
        limit: maximum number of characters to show. The result ends with the number of characters left out.
    """
    cut = len(text) - limit if limit is not None and len(text) > limit else 0
    shown = text[: len(text) - cut].replace("\r\n", "\n").replace("\t", "    ")
    safe = "".join(_escaped(character) if _is_unsafe(character) else character for character in shown)
    return f"{safe} … ({cut:,} more characters)" if cut else safe


def _is_unsafe(character: str) -> bool:
    return character not in _HARMLESS and unicodedata.category(character) in _INVISIBLE


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
