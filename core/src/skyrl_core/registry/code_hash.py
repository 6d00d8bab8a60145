"""The hash of a class or function that is in no file: typed at a prompt, or into a cell of a notebook."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, type(None))
UNWRAPPED = (staticmethod, classmethod)


def is_in_files(source: Any) -> bool:
    """Whether all code of a class or function comes from files on disk."""
    return all(os.path.isfile(function.__code__.co_filename) for function in _functions(source))


def code_sha256(source: Any) -> str:
    """SHA-256 over the code of a class or function, and over everything that the code uses from its module.

    Used functions, classes and plain values of the same module are included, so that editing another cell of a
    notebook changes the hash, too. What is imported is not.
    """
    digest = hashlib.sha256()
    for text in _parts(source, set()):
        digest.update(text.encode(errors="backslashreplace") + b"\0")
    return digest.hexdigest()


def _functions(source: Any) -> Iterator[FunctionType]:
    """The functions of a class or function; those that it inherits are not its own."""
    if isinstance(source, type):
        for value in vars(source).values():
            yield from _functions(value)
    elif isinstance(source, property):
        yield from (each for each in (source.fget, source.fset) if isinstance(each, FunctionType))
    elif isinstance(source, UNWRAPPED):
        yield from _functions(source.__func__)
    elif isinstance(source, FunctionType):
        yield source


def _parts(source: Any, seen: set[int]) -> Iterator[str]:
    if id(source) in seen:
        return
    seen.add(id(source))
    if isinstance(source, type):
        yield source.__qualname__
        home = [base for base in source.__bases__ if base.__module__ == source.__module__]
        for base in home:
            yield from _parts(base, seen)
        for name, value in vars(source).items():
            if _is_plain(value) and not name.startswith("__"):
                yield f"{name}={value!r}"
            elif isinstance(value, type) and value.__module__ == source.__module__:
                yield from _parts(value, seen)
    for function in _functions(source):
        yield _text(function)
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
        yield repr([value for value in defaults if _is_plain(value)])
        yield from _used(function, seen)


def _used(function: FunctionType, seen: set[int]) -> Iterator[str]:
    closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    values = {name: cell.cell_contents for name, cell in closure.items() if cell != CellType()}  # not an empty one
    values |= {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    for name, value in sorted(values.items()):
        if _is_plain(value):
            yield f"{name}={value!r}"
        elif not isinstance(value, ModuleType) and getattr(value, "__module__", None) == function.__module__:
            yield name
            yield from _parts(value, seen)


def _is_plain(value: Any) -> bool:
    """Whether the repr of a value is the same in every process; that of most objects has an address."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else isinstance(value, PLAIN)


def _names(code: CodeType) -> set[str]:
    """The names of the globals and attributes that the code uses, nested functions included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _text(function: FunctionType) -> str:
    """The source, which prompts and notebooks keep; else the bytecode."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"
