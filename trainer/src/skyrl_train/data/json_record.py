"""Parses one line of JSON strictly: numbers keep their exact text, and nothing in it is ambiguous."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn


class Numeral(str):
    """A number as it is written in the source: ``1.10`` and ``1e5`` as text, unlike the float 1.1."""

    __slots__ = ()

    @property
    def number(self) -> int | float:
        """The number.

        Raises:
            ValueError: it is too large for a float, or has too many digits for an int.
        """
        if self.lstrip("-").isdecimal():
            return int(self)
        value = float(self)
        if math.isinf(value):
            raise ValueError(f"the number {self} is too large for a float")
        return value


def parse_record(text: str) -> Any:
    """The value of a JSON text, with numerals as numbers.

    Raises:
        ValueError: it is not JSON, names a key twice, or contains NaN or infinity.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        text,
        parse_int=Numeral,
        parse_float=Numeral,
        parse_constant=_refuse_constant,
        object_pairs_hook=_object,
    )


def as_data(value: object) -> Any:
    """The value with ints and floats in place of numerals.

    Raises:
        ValueError: a number or a text cannot be kept as it is; the message says which.
    """
    if isinstance(value, Numeral):
        return value.number
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, Mapping):
        return {as_data(name): as_data(item) for name, item in value.items()}
    elif isinstance(value, list | tuple):
        return type(value)(as_data(item) for item in value)
    return value


def check_text(text: str) -> None:
    """Check that the text consists of characters.

    Raises:
        ValueError: it contains half of a surrogate pair, which no encoding and no tokenizer accepts.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is \\u{ord(text[error.start]):04x}, half of a surrogate pair"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in an object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or text")
