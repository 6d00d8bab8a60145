"""How many values a configuration may have, and how deep they may be nested: bounded once, before anything recurses."""

from collections.abc import Mapping
from typing import Any

MAX_VALUES = 20_000
"""Keys and values with aliases written out; no real configuration has this many."""
MAX_DEPTH = 64
"""Mappings and lists inside each other; Python's recursion limit is reached at a few hundred."""
TOO_MANY = f"more than {MAX_VALUES:,} keys and values, aliases included; this is not a configuration"
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep, or contains itself; flatten the value"


def size_fault(value: Any) -> str | None:
    """The bound that a value exceeds; None if it is small enough."""
    count, pending = 0, [(value, 1)]
    while pending:
        each, depth = pending.pop()
        count += 1
        inner = each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ()
        if inner and depth > MAX_DEPTH:
            return TOO_DEEP
        if count + len(inner) > MAX_VALUES:
            return TOO_MANY
        pending += [(one, depth + 1) for one in inner]
    return None
