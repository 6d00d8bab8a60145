"""Model output made safe to show: nothing in it can steer a terminal or hide in a page."""

import unicodedata

# Cc: control, such as escape. Cf: format, such as right-to-left override. Cs: half a surrogate pair.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs"})
# Joiners that scripts and emoji need.
_HARMLESS = frozenset("\n\u200c\u200d")


def printable(text: str, *, limit: int | None = None) -> str:
    """The text with tabs as spaces and control and format characters as backslash escapes; newlines stay.

    Args:
        limit: longest result in characters; what is cut is counted at the end.
    """
    cut = len(text) - limit if limit is not None and len(text) > limit else 0
    shown = text[: len(text) - cut].replace("\r\n", "\n").replace("\t", "    ")
    safe = "".join(_escaped(character) if _is_unsafe(character) else character for character in shown)
    return f"{safe} … ({cut:,} more characters)" if cut else safe


def _is_unsafe(character: str) -> bool:
    return character not in _HARMLESS and unicodedata.category(character) in _INVISIBLE


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
