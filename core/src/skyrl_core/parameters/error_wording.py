"""The text of validation errors in terms of a configuration, such as `must be >= 0`. Imports no torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_RULE = 2000
"""Characters of the message of a validator."""

_TYPES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list, such as [a, b]",
    "list": "must be a list, such as [a, b]",
    "dict": "must be a mapping",
    "model": "must be a mapping",
}
_TYPE_ENDINGS = ("type", "parsing", "parsing_size", "from_float", "attributes_type")

_REPLACEMENTS = (
    ("Input should be", "must be"),
    ("greater than or equal to", ">="),
    ("less than or equal to", "<="),
    ("greater than", ">"),
    ("less than", "<"),
)


_RULES: "dict[str, Callable[[ErrorDetails], str]]" = {
    "literal_error": lambda detail: f"must be {detail['ctx']['expected'].replace(chr(39), '')}",
    "too_long": lambda detail: f"must have {detail['ctx']['max_length']} values, not {detail['ctx']['actual_length']}",
    "too_short": lambda detail: f"must have at least {_counted(detail['ctx'])}",
    # The location ends with a missing index of a list, or with the name of a field.
    "missing": lambda detail: "has too few values" if isinstance(detail["loc"][-1], int) else "is required",
    "extra_forbidden": lambda _: "unknown parameter",
    "value_error": lambda detail: str(detail["ctx"]["error"])[:MAX_RULE],
    "string_type": lambda detail: (
        "must be text; put it in quotes" if isinstance(detail["input"], int | float) else "must be text"
    ),
}


def rule_of(detail: "ErrorDetails") -> str:
    """The requirement that the value breaks, to follow `KEY = VALUE: ` in a message."""
    kind, rule = detail["type"], detail["msg"]
    if kind in _RULES:
        return _RULES[kind](detail)
    name, _, ending = kind.partition("_")
    if ending in _TYPE_ENDINGS and name in _TYPES:
        return _TYPES[name]
    for theirs, ours in _REPLACEMENTS:
        rule = rule.replace(theirs, ours)
    return rule


def _counted(context: "dict[str, Any]") -> str:
    least, actual = context["min_length"], context["actual_length"]
    return f"{'one value' if least == 1 else f'{least} values'}, not {actual}"
