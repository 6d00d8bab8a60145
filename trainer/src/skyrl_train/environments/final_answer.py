r"""Parses the number that an answer states, exactly: ``$1,234.50`` is 2469/2, ``\boxed{18.00}`` is 18."""

import re
from fractions import Fraction
from typing import NamedTuple

MARKER = "####"
"""GSM8K writes this before a final answer."""

_MAX_DIGITS = 100
"""Longer numbers are noise; Python itself refuses to parse more than 4300 digits."""

_CURRENCY = r"\\?[$€£¥₹]"
_RESPELLINGS = [
    (re.compile("[\u2212\u2013\ufe63\uff0d]"), "-"),  # minus sign, en dash, small and full-width hyphen-minus
    (re.compile(rf"(?<![0-9]){_CURRENCY} ?"), ""),  # $18, -$18, $ 18
    (re.compile(_CURRENCY), " "),  # 18$
    (re.compile(r"(?<=[0-9])(?:\{,\}|\\,|['\u2019\u00a0\u2009\u202f])(?=[0-9]{3})"), ","),  # LaTeX, Swiss, thin space
    (re.compile(r"(?<=[0-9])(?=\\[dt]?frac)"), " "),  # 1\frac{1}{2}
    (re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}"), r"\1/\2"),
    (re.compile(r"[ \t]+"), " "),
]
_NUMBER = re.compile(
    r"""
    (?P<minus> (?<![\w)]) - )? [+]? (?<![0-9]) (?<![0-9][.,])
    (?: (?: (?P<whole> [0-9]++ ) [ ] )? (?P<top> [0-9]++ ) [ ]? / [ ]? (?P<bottom> [0-9]++ )
      | (?P<decimal> (?: [0-9]{1,3} (?: ,[0-9]{3} )++ | [0-9]++ ) (?: \.[0-9]++ )? | (?<![A-Za-z.]) \.[0-9]++ ) )
    (?! [ ]? [-+*/^:.,=\u00d7\u00f7]? [ ]? \.? [0-9] )  # a sum, a range, a time or a list follows: not one number
    (?! [eE][-+]?[0-9] )
    """,
    re.VERBOSE,
)

_FORMULA = re.compile(r"\^|\\(?!boxed|fbox|text|mathrm|mathbf|quad)[A-Za-z]")
"""A power or a LaTeX command that changes the value of a number: ``\\sqrt{12}`` is not 12."""


class Number(NamedTuple):
    """A number in a text."""

    value: Fraction
    at_end: bool
    """Whether at most one punctuation mark follows, so that digits could be missing if the text was cut off."""


def stated_after_marker(text: str) -> str | None:
    """The first line after the last ``####``; None without one."""
    _, marker, tail = text.rpartition(MARKER)
    return tail.strip().partition("\n")[0].strip() if marker else None


def parse_answer(statement: str) -> Number | None:
    """The number of a one-line statement such as ``x = $1,234.50 a year.``; None if not exactly one.
    Supports signs, currency signs, thousands separators, decimals, fractions (``3/4``, ``1 1/2``, ``\\frac{3}{4}``), a
    percent sign (dropped, as in GSM8K), ``\\boxed{}``, and text around the number. ``12-5`` is not a number.
    """
    text = _respelled(statement)
    _, _, right = text.rpartition("=")
    if re.search("[0-9]", right):
        text = right
    match = _NUMBER.search(text)
    if match is None or _FORMULA.search(text) or re.search("[0-9]", text[: match.start()]):
        return None
    return _number(match)


def last_number(text: str) -> Number | None:
    """The last number anywhere in a text; None without one."""
    matches = list(_NUMBER.finditer(_respelled(text)))
    return _number(matches[-1]) if matches else None


def _respelled(text: str) -> str:
    for pattern, replacement in _RESPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def _number(match: re.Match[str]) -> Number | None:
    if len(match[0]) > _MAX_DIGITS:
        return None
    if match["decimal"]:
        value = Fraction(match["decimal"].replace(",", ""))
    elif int(match["bottom"]) == 0:
        return None
    else:
        value = int(match["whole"] or 0) + Fraction(int(match["top"]), int(match["bottom"]))
    rest = match.string[match.end() :]
    at_end = re.fullmatch(r"[^\w\s]?", rest) is not None
    return Number(-value if match["minus"] else value, at_end)
