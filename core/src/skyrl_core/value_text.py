"""Values of any type and size as plain data of bounded size, and as text that every message can show."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from skyrl_core.printable_text import printable

MAX_DEPTH = 6
MAX_VALUES = 60
"""Values shown in all, keys included."""
MAX_TEXT = 200
MAX_DIGITS = 40
ELLIPSIS = "…"


class Abridged(str):
    """Text that stands for a value that is not shown in full; its repr has no quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show_value(value: Any, name: str = "") -> str:
    """The value as Python writes it, printable, shortened and without secrets; ``name`` is its key."""
    return repr(public(value, name))


def public(value: Any, name: str = "") -> Any:
    """The value as ``bounded``, without secrets; ``name`` is the key or option it belongs to."""
    from skyrl_core.redaction import redacted  # takes milliseconds that a listing does not need

    shown = bounded(value)
    safe = redacted(shown, name)
    return shown if safe == shown else safe  # the first keeps what is Abridged


def bounded(value: Any) -> Any:
    """The value as plain data: none, bool, int, float, str, list and dict, cut to a bounded size.

    It never raises: cyclic values, numbers of thousands of digits and objects whose repr raises become ``Abridged``.
    """
    return _Budget().plain(value, 0)


class _Budget:
    """Counts the values that are still to be shown."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def plain(self, value: Any, depth: int) -> Any:
        self._left -= 1
        try:
            if isinstance(value, dict | list | tuple | set | frozenset):
                return Abridged(ELLIPSIS) if depth >= MAX_DEPTH else self._collection(value, depth + 1)
            return _scalar(value)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - any method of a foreign value may fail or exit
            return Abridged(f"<{type(value).__name__}>")

    def _collection(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            pairs = dict[Any, Any]()
            for key, inner in self._first(value.items()):
                pairs[_scalar(key)] = self.plain(inner, depth)
            return pairs if len(pairs) == len(value) else pairs | {Abridged(ELLIPSIS): Abridged(ELLIPSIS)}
        items = [self.plain(inner, depth) for inner in self._first(value)]
        items += [Abridged(ELLIPSIS)] if len(items) < len(value) else []
        return items

    def _first(self, values: Iterable[Any]) -> Iterable[Any]:
        for each in islice(values, MAX_VALUES):
            if self._left <= 0:
                return
            yield each


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        digits = value.bit_length() * 30103 // 100000 + 1
        return int(value) if digits <= MAX_DIGITS else Abridged(f"<a number of {digits:,} digits>")
    if isinstance(value, str):
        return str.__getitem__(value, slice(MAX_TEXT)) + (ELLIPSIS if len(value) > MAX_TEXT else "")
    shown = repr(value[:MAX_TEXT] if isinstance(value, bytes | bytearray) else value)
    return Abridged(printable(shown[:MAX_TEXT], escape=True) + (ELLIPSIS if len(shown) > MAX_TEXT else ""))
