"""The plain data that rewards keep in instances, modules and functions, put back before each reward.

A counter, a list of answers seen or a generator would make a verdict depend on the rewards computed before it, and so
on the number of workers. Objects of classes, such as a client or a model, are shared: a worker is kept for them.
"""

import pickle
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from skyrl_train.environments.environment import Environment
from skyrl_train.environments.reward_function import RewardFunction

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_SEQUENCES = (tuple, list, set, frozenset, deque)

_MAX_ITEMS = 1000
"""A larger value is a table, not a state, and checking it would take longer than most rewards."""

_TRUSTED = sys.stdlib_module_names | {"skyrl_train", "pydantic"}
"""Top-level modules in which rewards keep no data."""


class _Names(NamedTuple):
    """Something with values by name: an instance, a module, a class, or the variables of a function."""

    key: int  # its identity
    read: Callable[[], Mapping[str, Any]]
    write: Callable[[str, Any], None]
    remove: Callable[[str], None]


class PlainState:
    """The plain data that the rewards of some environments can reach, as it was when this was created."""

    def __init__(self, environments: Iterable[Environment]) -> None:
        """Record the data of the environments and functions, of their classes, and of the modules that define them."""
        found = {names.key: names for environment in environments for names in _of_environment(environment)}
        self._saved = [_Saved(names) for names in found.values()]

    def restore(self) -> None:
        """Put the data back, in place."""
        for saved in self._saved:
            saved.restore()


class _Saved:
    """The plain values of one owner."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._record()

    def _record(self) -> None:
        values = self._names.read()
        plain = {name: value for name, value in values.items() if not name.startswith("__") and _is_plain(value)}
        self._fixed = {name: value for name, value in values.items() if _is_fixed(name, value)}
        self._containers = {
            name: (value, pickle.dumps(value)) for name, value in plain.items() if name not in self._fixed
        }
        self._known = frozenset(values)

    def restore(self) -> None:
        """Put the values back; new plain ones are removed."""
        changed = self._changed()
        if not changed:
            return
        values = self._names.read()
        stored = [name for name in changed if name in values and self._was_unset(name)]
        if any(not _is_plain(values[name]) for name in stored):
            self._record()  # a reward that stores a client or a model prepares the worker: later ones start from there
            return
        for name in changed:
            if name in self._fixed:
                self._names.write(name, self._fixed[name])
            elif name in self._containers:
                value, saved = self._containers[name]
                _fill(value, pickle.loads(saved))
                self._names.write(name, value)
            else:
                self._names.remove(name)

    def _was_unset(self, name: str) -> bool:
        return self._fixed.get(name) is None and name not in self._containers

    def _changed(self) -> list[str]:
        values = self._names.read()
        changed: list[str] = []
        if values.keys() != self._known:
            changed = [name for name in values if name not in self._known and not name.startswith("__")]
        changed += [name for name, value in self._fixed.items() if values.get(name, values) is not value]
        for name, (value, saved) in self._containers.items():
            if values.get(name) is not value or _pickled(value) != saved:
                changed.append(name)
        return changed


def _of_environment(environment: Environment) -> Iterator[_Names]:
    yield from _of_instance(environment)
    if isinstance(environment, RewardFunction):
        yield from _of_callable(environment.function)


def _of_instance(instance: object) -> Iterator[_Names]:
    if hasattr(instance, "__dict__"):
        yield _of_mapping(vars(instance))
    if isinstance(instance, Environment):
        yield from _of_instance(instance.params)
    for owner in type(instance).__mro__:
        if owner.__module__.partition(".")[0] not in _TRUSTED:
            yield _of_class(owner)
            yield from _of_module(getattr(sys.modules.get(owner.__module__), "__dict__", {}))


def _of_callable(function: object) -> Iterator[_Names]:
    if isinstance(function, FunctionType):
        yield from _of_function(function)
        yield from _of_module(function.__globals__)
    elif isinstance(function, MethodType):
        yield from _of_instance(function.__self__)
    elif isinstance(function, partial):
        yield from _of_callable(function.func)
        yield _of_mapping(dict(_by_position(function.args)) | function.keywords)
    else:
        yield from _of_instance(function)


def _by_position(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The values with their positions as names."""
    return ((str(number), value) for number, value in enumerate(values))


def _of_module(values: dict[str, Any]) -> Iterator[_Names]:
    if values.get("__name__", "").partition(".")[0] in _TRUSTED:
        return
    yield _of_mapping(values)
    for value in list(values.values()):
        if isinstance(value, FunctionType) and value.__globals__ is values:
            yield from _of_function(value)
        elif isinstance(value, type) and value.__module__ == values.get("__name__"):
            yield _of_class(value)


def _of_function(function: FunctionType) -> Iterator[_Names]:
    yield _of_mapping(vars(function))
    defaults = dict(_by_position(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    if any(type(value) not in _SCALARS for value in defaults.values()):
        yield _of_mapping(defaults)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    contents = {name: cell.cell_contents for name, cell in cells.items() if cell != CellType()}  # not an empty one
    for value in contents.values():
        if isinstance(value, FunctionType) and value is not function:
            yield from _of_function(value)
    if contents:
        yield _Names(
            key=id(function),
            read=lambda: {name: cells[name].cell_contents for name in contents},
            write=lambda name, value: setattr(cells[name], "cell_contents", value),
            remove=contents.pop,  # a function never gains or loses variables
        )


def _of_mapping(values: dict[str, Any]) -> _Names:
    return _Names(key=id(values), read=lambda: values, write=values.__setitem__, remove=values.__delitem__)


def _of_class(owner: type) -> _Names:
    return _Names(
        key=id(owner), read=lambda: vars(owner), write=partial(setattr, owner), remove=partial(delattr, owner)
    )


def _is_fixed(name: str, value: object) -> bool:
    """Whether a value cannot change in place: a scalar, or what code defines and a reward may replace."""
    return not name.startswith("__") and type(value) in (*_SCALARS, FunctionType, ModuleType, type)


def _is_plain(value: object) -> bool:
    """Whether a value is made of numbers, text and containers, up to a size, or is a generator of random numbers."""
    waiting: list[object] = [value]
    count = 0
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if isinstance(item, Sized) and len(item) > _MAX_ITEMS and kind not in _SCALARS:
            return False
        if isinstance(item, _MAPPINGS) and kind in _MAPPINGS:
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, _SEQUENCES) and kind in _SEQUENCES:
            waiting += item
        elif kind not in _SCALARS and kind not in (bytearray, random.Random):
            return False
        count += 1
        if count + len(waiting) > _MAX_ITEMS:
            return False
    return True


def _pickled(value: object) -> bytes | None:
    """The value as bytes; None for a large or a changed one."""
    return pickle.dumps(value) if _is_plain(value) else None


def _fill(value: Any, saved: Any) -> None:
    """Give a container its saved content, in place, because other names may refer to it."""
    kind = type(value)
    if kind in _MAPPINGS or kind is set:
        value.clear()
        value.update(saved)
    elif kind is deque:
        value.clear()
        value.extend(saved)
    elif kind in (list, bytearray):
        value[:] = saved
    elif kind is random.Random:
        value.setstate(saved.getstate())
    elif kind is tuple:
        for item, saved_item in zip(value, saved, strict=True):
            _fill(item, saved_item)
