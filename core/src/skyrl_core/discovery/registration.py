"""A plugin that was registered in this process, and the place in the code where it is defined."""

import sys
from typing import NamedTuple

from skyrl_core.discovery.claim import Claim


class Registered(NamedTuple):
    """A plugin of this process. ``source`` is the class or function that the user wrote."""

    claim: Claim
    plugin: object
    source: object


def is_same_place(first: object, second: object) -> bool:
    """Whether two classes or functions have one definition in the code, of which the second is a later execution.

    So a cell of a notebook that runs again, or a module that is reloaded, replaces what it registered before. A module
    and a script are one place if they are one file. All lambdas of a module have the same name, so in a file their line
    decides; a prompt or notebook has no file, and a lambda there replaces the one before.
    """
    if first is second:
        return True
    name = getattr(first, "__qualname__", None)
    if name is None or name != getattr(second, "__qualname__", None):
        return False
    modules = [getattr(each, "__module__", None) for each in (first, second)]
    files = [getattr(sys.modules.get(module or ""), "__file__", None) for module in modules]
    if files[0] is not None and name.endswith("<lambda>") and _line(first) != _line(second):
        return False
    if modules[0] == modules[1]:
        return modules[0] is not None
    return files[0] is not None and files[0] == files[1]


def _line(function: object) -> object:
    return getattr(getattr(function, "__code__", None), "co_firstlineno", None)


def value_of(source: object) -> str:
    """The ``module:Attribute`` of a class or function, for its claim."""
    return f"{getattr(source, '__module__', '')}:{getattr(source, '__qualname__', '')}"
