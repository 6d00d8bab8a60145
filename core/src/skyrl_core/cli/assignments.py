"""Parses KEY=VALUE arguments into parameters of a loss."""

import json
import re
from collections.abc import Sequence
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_core.value_text import show_value

MAX_DIGITS = 100
MAX_DEPTH = 64
TOO_DEEP = f"names more than {MAX_DEPTH} blocks inside each other; no parameter is that deep"
_CONSTANTS = {"null": None, "none": None, "~": None, "true": True, "false": False}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def params_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse values as a config does, with ``1e-6`` as a number; a dotted key belongs to a nested block.

    Raises:
        SkyrlError: an argument has no `=`, or a key is used as a value and as a block.
    """
    params: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise SkyrlError(f"--param {assignment}: expected KEY=VALUE, such as --param clip_high=0.28")
        *blocks, last = key.split(".")
        if len(blocks) > MAX_DEPTH:
            raise SkyrlError(f"--param {show_value(key)}: {TOO_DEEP}")
        block: Any = params
        for name in blocks:
            block = block.setdefault(name, {})
            if not isinstance(block, dict):
                raise SkyrlError(f"--param {show_value(assignment)}: {name} already has the value {show_value(block)}")
        block[last] = value_of(text)
    return params


def value_of(text: str) -> Any:
    """Parse null, true, false, a number, or a list or mapping in JSON; any other text is a string."""
    text = text.strip()
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _NUMBER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise SkyrlError(f"--param: {show_value(text)} has more than {MAX_DIGITS} digits; correct it")
        return int(text) if text.lstrip("+-").replace("_", "").isdigit() else float(text)
    if text[:1] in tuple('[{"'):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise SkyrlError(f"--param: {show_value(text)} is not valid JSON: {error}; correct it") from error
    return text
