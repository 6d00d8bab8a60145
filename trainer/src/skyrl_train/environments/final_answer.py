r"""Parses the number that an answer states, exactly: ``$1,234.50`` is 2469/2, ``\boxed{18.00}`` is 18.

A grammar of what a statement may be, not a search for digits: a statement that it does not describe has no number.
"""

import re
import unicodedata
from fractions import Fraction

from skyrl_train.environments.answer_words import (
    GLUED_UNITS,
    INTRODUCTIONS,
    LETTERS,
    QUALIFIES,
    RESCALES,
    VERBS,
)

MARKER = "####"
"""GSM8K writes this before a final answer."""

_MAX_DIGITS = 100
"""Longer numbers are noise; Python itself refuses to parse more than 4300 digits."""
_MAX_STATEMENT = 500
_MAX_UNIT_WORDS = 8
_MAX_NESTING = 4
"""Of markup: `**$\\boxed{18}$**`."""

# ASCII characters for those that look like them. A combining dot, a superscript or a zero-width space stays as it is,
# and the grammar knows none of them.
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2796\ufe58\ufe63"
_ASCII = (
    {ord(dash): "-" for dash in _DASHES}
    | {ord(slash): "/" for slash in "\u2044\u2215"}
    | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    | {ord("\u2019"): "'", ord("\u3000"): " "}
)

_SEPARATOR = r"(?:,|\{,\}|\\,|['\u00a0\u2009\u202f])"  # English, LaTeX, Swiss, thin space
_DECIMAL = (
    rf"(?:[1-9][0-9]{{0,2}}(?P<separator>{_SEPARATOR})[0-9]{{3}}(?:(?P=separator)[0-9]{{3}})*+|[0-9]++)(?:\.[0-9]++)?+"
    r"|\.[0-9]++"
)
_NUMBER = re.compile(
    rf"""
    (?<! [0-9] ) (?:
    (?: (?P<whole> [0-9]++ ) [ ] )? (?P<top> [1-9][0-9]*+ | 0 ) [ ]? / [ ]? (?P<bottom> [1-9][0-9]*+ )
      (?! [.,/] ?[0-9] )
    | (?P<latex_whole> [0-9]++ )? [ ]? \\[dt]?frac \{{ (?P<latex_top> [0-9]++ ) \}} \{{ (?P<latex_bottom> [0-9]++ ) \}}
    | (?P<decimal> {_DECIMAL} ) )
    """,
    re.VERBOSE,
)
_CURRENCY = r"(?:(?:US|HK|CA|AU)?\\?[$€£¥₹]|USD|EUR|GBP|INR|Rs\.?)"
_BEFORE = re.compile(rf"(?P<minus>minus |negative )?(?P<sign>[-+] ?)?(?:{_CURRENCY} ?)?(?P<sign_inside>[-+])?")
_AFTER = re.compile(rf"(?: ?(?:\\?%|percent\b|per cent\b|{_CURRENCY}|° ?[CF]?(?![A-Za-z])))?")
_WORD = re.compile(r"[^\W\d_]+")
_UNIT = re.compile(r"[^\W\d_]*+(?:[ /-][^\W\d_]+)*+")

_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\{([^{}\\]*)\}")
_BRACED = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"
# Not next to a letter or digit, where markup is part of a number: `1**8**`, `\boxed{1}8`.
_MARKUP = re.compile(
    r"(?<![\w*`$}\\])(?:"
    r"\*\*(?! )(?P<bold>[^*]+)(?<! )\*\*|\*(?! )(?P<italic>[^*]+)(?<! )\*|__(?P<under>[^_]+)__|`(?P<code>[^`]+)`"
    r"|\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>(?:[^$\\]|\\.)+)\$|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]"
    rf"|\\(?:boxed|fbox) ?\{{(?P<boxed>{_BRACED})\}}"
    r")(?![\w*`{])"
)
_ARITHMETIC = re.compile(rf"(?:[0-9.,+*/\u00d7\u00f7()\[\] -]|{_CURRENCY}|%|\\(?:times|cdot|div)(?![A-Za-z]))+")
_OPENING = re.compile(r"(?:\\boxed\{|\\\(|[*`({\[$])+$")
_OPERATOR = re.compile(r"[0-9)] *(?:[-+*/\u00d7\u00f7]|\\(?:times|cdot|div))")
_NAME = re.compile(r"[A-Za-z_]+(?: [A-Za-z_]+)*:?")
_NOT_ONE_NUMBER = re.compile(r"[^\s\w$€£¥₹\\.,:;!?'\"()\[\]{}=%*`-]")


def stated_after_marker(text: str) -> str | None:
    """The first line after the last ``####``; None without one."""
    _, marker, tail = text.rpartition(MARKER)
    return tail.strip().partition("\n")[0].strip() if marker else None


def may_be_cut_off(text: str, *, finished: bool) -> bool:
    """Whether the token limit may have cut off the answer: digits, ``million`` or ``or 7`` could be missing."""
    return not finished and "\n" not in text.rpartition(MARKER)[2].lstrip()


def parse_answer(statement: str) -> Fraction | None:
    """The number of a one-line statement such as ``x = $1,234.50 a year.``; None if it is not exactly one number.

    Supports signs (``-``, a Unicode dash, ``minus``), currency signs, thousands separators, decimals, fractions
    (``3/4``, ``1 1/2``, ``\\frac{3}{4}``), a percent sign (dropped, as in GSM8K), Markdown, ``\\boxed{}``, an
    introduction (``The answer is``), an equation and a unit. A word that could change the number leaves none.
    """
    text = right_side(statement)
    if text is None:
        return None
    introduction = _introduction(text)
    before = _BEFORE.match(text, introduction)
    assert before is not None  # it matches nothing, too
    number = _NUMBER.match(text, before.end())
    if number is None or not _is_unit(text[number.end() :]):
        return None
    signs = [sign.strip() for sign in before.groups() if sign]
    spaced = before["sign"] is not None and before["sign"].endswith(" ")
    if len(signs) > 1 or (spaced and not _ends_with_verb(text[:introduction])):
        return None
    return _value(number, negative=bool(signs) and signs[0] != "+")


def right_side(statement: str) -> str | None:
    """The part of an equation after ``=``, without markup; None if the left side is neither a name nor a sum.

    ``x = 18`` and ``3 + 15 = 18`` state 18; ``2x = 18``, ``x != 18`` and ``72 = 80`` do not.
    """
    if len(statement) > _MAX_STATEMENT:
        return None
    ascii_text = _in_ascii(statement)
    if ascii_text is None:
        return None
    *left, right = _unwrapped(ascii_text).split("=")
    if not all(_names_a_number(_unwrapped(part).rstrip("$ ")) for part in left):
        return None
    return _unwrapped(right)


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None without one, or if a word or sign next to it could change it."""
    end = max((match.end() for match in re.finditer(r"[0-9]", text)), default=None)
    if end is None:
        return None
    start = max(text.rfind("\n", 0, end) + 1, end - _MAX_STATEMENT)
    line = text[start : end + _MAX_STATEMENT].partition("\n")[0]
    ascii_line = _in_ascii(line)
    if ascii_line is None:
        return None
    ascii_line = _TEXT_COMMAND.sub(r" \1 ", ascii_line)
    *_, number = _NUMBER.finditer(ascii_line)
    before, after = ascii_line[: number.start()], ascii_line[number.end() :]
    negative = _sign_before(before)
    return None if negative is None or _rescaled(after) else _value(number, negative=negative)


def _in_ascii(text: str) -> str | None:
    """The text with ASCII digits, dashes and slashes; None if a character such as ½, ² or 万 is a number itself."""
    text = re.sub("[\u00a0\u2009\u202f](?![0-9]{3})", " ", text.translate(_ASCII))
    if text.isascii():
        return text
    text = "".join(str(unicodedata.decimal(char, char)) for char in text)
    return None if any(not char.isascii() and char.isnumeric() for char in text) else text


def _unwrapped(text: str) -> str:
    """The text without Markdown, LaTeX around numbers and words, surrounding spaces and a final full stop."""
    for _ in range(_MAX_NESTING):
        text = text.strip()
        text = text[:-1] if text.endswith(".") and not text.endswith("..") else text
        text = _MARKUP.sub(lambda match: str(match[match.lastgroup or 0]), text)
    return re.sub("[ \t]+", " ", _TEXT_COMMAND.sub(r" \1 ", text)).replace("\\ ", " ").strip()


def _names_a_number(left: str) -> bool:
    """Whether the left side of an equation is a name (``x``, ``The total cost``) or a calculation without unknowns."""
    if _ARITHMETIC.fullmatch(left):
        return _OPERATOR.search(left) is not None
    words = re.split("[ _]+", left.rstrip(":").lower())
    return _NAME.fullmatch(left) is not None and INTRODUCTIONS.issuperset(words[:-1]) and words[-1] not in QUALIFIES


def _introduction(text: str) -> int:
    """The length of the words that introduce the number."""
    end = 0
    for match in re.finditer(r"([A-Za-z]+)(,? |: ?)", text):
        if match.start() != end or match[1].lower() not in INTRODUCTIONS:
            break
        end = match.end()
    return end


def _ends_with_verb(introduction: str) -> bool:
    words = _WORD.findall(introduction.lower())
    return not words or introduction.rstrip().endswith(":") or words[-1] in VERBS


def _is_unit(rest: str) -> bool:
    """Whether the text after a number is nothing, a currency or percent sign, or a unit such as ``km/h a day``."""
    after = _AFTER.match(rest)
    assert after is not None  # it matches nothing, too
    rest = rest[after.end() :]
    unit = _UNIT.match(rest)
    assert unit is not None  # it matches nothing, too
    words = _WORD.findall(unit[0].lower())
    glued = bool(words) and unit[0][0] not in " /-"
    if rest[unit.end() :] not in ({"", "!"} if words else {""}) or len(words) > _MAX_UNIT_WORDS:
        return False
    return (not glued or words[0] in GLUED_UNITS) and not any(_changes(word) for word in words[glued:])


def _changes(word: str) -> bool:
    return word in QUALIFIES or (len(word) == 1 and word not in LETTERS)


def _sign_before(text: str) -> bool | None:
    """Whether a minus sign precedes a number in prose; None if it may be part of something else."""
    text = re.sub(rf"{_CURRENCY} ?$", "", text)
    text = _OPENING.sub("", text)
    rest = text.rstrip(" ")
    spaced = rest != text
    if rest.endswith("-"):
        rest = _OPENING.sub("", rest[:-1])
        starts = not rest.strip() or rest.rstrip()[-1] in "=:" or (rest.endswith(" ") and not spaced)
        words = _WORD.findall(rest.lower())
        starts = starts or bool(spaced and words and words[-1] in VERBS)
        return True if starts and not re.search(r"[0-9)\]}%-]\s*$", rest) else None
    words = _WORD.findall(rest[-20:].lower())
    if words and rest[-1].isalpha():
        return {"minus": True, "negative": True}.get(words[-1], None if not spaced else False)
    return None if rest and (rest[-1] in ".,/^_\\+*<>~#" or _NOT_ONE_NUMBER.match(rest[-1])) else False


def _rescaled(rest: str) -> bool:
    """Whether the text after a number in prose makes it another number: ``k``, ``million``, ``^2``, ``!``."""
    if re.match(r" ?(?:[-+*/^_\u00d7\u00f7!\u00b2\u00b3\u221a]|\\(?!%|\)|\]|text|,|\$| ))", rest):
        return not re.match(r" ?[-/*](?![0-9 ])|\*\*|[*]?\*$", rest)
    word = re.match(r" ?(?:and )?(?:an? )?([^\W\d_]+)", rest)
    if word is None:
        return False
    glued = not rest.startswith(" ")
    name = word[1].lower()
    return name not in GLUED_UNITS if glued else name in RESCALES or (len(name) == 1 and name not in LETTERS)


def _value(number: re.Match[str], *, negative: bool) -> Fraction | None:
    if len(number[0]) > _MAX_DIGITS:
        return None
    if number["decimal"]:
        value = Fraction(re.sub(r"[^0-9.]", "", number["decimal"]))
    else:
        kind = "" if number["bottom"] else "latex_"
        whole, top, bottom = (int(number[kind + part] or 0) for part in ("whole", "top", "bottom"))
        if bottom == 0 or (number[kind + "whole"] and top >= bottom):
            return None
        value = whole + Fraction(top, bottom)
    return -value if negative else value
