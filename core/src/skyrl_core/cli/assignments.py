"""KEY=VALUE arguments as parameters of a loss."""

import json
import re
from collections.abc import Sequence
from typing import Any

from skyrl_core.errors import SkyrlError

_WORDS = {"null": None, "none": None, "~": None, "true": True, "false": False}
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)


def params_of(assignments: Sequence[str]) -> dict[str, Any]:
    """Values as a config would read them, ``1e-6`` a number; a dotted key is one of a nested block.

    Raises:
        SkyrlError: one has no `=`, or a key is a value and a block at once.
    """
    params: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise SkyrlError(f"--param {assignment}: expected KEY=VALUE, such as --param clip_high=0.28")
        *blocks, last = key.split(".")
        block: Any = params
        for name in blocks:
            block = block.setdefault(name, {})
            if not isinstance(block, dict):
                raise SkyrlError(f"--param {assignment}: {name} already has the value {block!r}")
        block[last] = value_of(text)
    return params


def value_of(text: str) -> Any:
    """null, true, a number, a list or mapping in JSON, or else the text itself."""
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").replace("_", "").isdigit() else float(text)
    if text[:1] in tuple('[{"'):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SkyrlError(f"--param: {text} is not JSON: {error}") from error
    return text
