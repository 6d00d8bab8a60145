"""How deep values are nested; everything that reads them recurses, so the depth is bounded once, before."""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
"""Mappings and lists inside each other; Python's recursion limit is reached at a few hundred."""
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep, or contains itself; flatten the value"


def is_too_deep(value: Any) -> bool:
    """Whether mappings and lists are nested more than MAX_DEPTH levels deep; a value that contains itself is."""
    deepest: dict[int, int] = {}
    pending = [(value, 1)]
    while pending:
        each, depth = pending.pop()
        inner = each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ()
        if not inner or deepest.get(id(each), 0) >= depth:
            continue
        if depth > MAX_DEPTH:
            return True
        deepest[id(each)] = depth
        pending += [(one, depth + 1) for one in inner]
    return False
