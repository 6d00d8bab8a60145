"""JSON that every parser accepts: UTF-8, without NaN and infinity."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def encode(value: Any, *, indent: int | None = None) -> bytes:
    """The value as UTF-8 JSON without a final newline. NaN and infinity become null; accepts numpy values.

    Raises:
        TypeError: a part of the value has no JSON representation.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # A model may emit half of a surrogate pair. UTF-8 cannot encode it, but its backslash escape is valid JSON.
    return text.encode("utf-8", errors="backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _finite(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON representation: {value!r}")
