"""The state of a reward worker's process, put back before each reward, so that none sees what another changed."""

import builtins
import json
import locale
import math
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any

_MODULES: tuple[ModuleType, ...] = (builtins, os, shutil, subprocess, random, math, json, re, time)
"""Rewards that run generated code replace functions of these, such as ``os.kill = None``."""

_SYS_NAMES = ("stdin", "stdout", "stderr", "excepthook", "displayhook", "dont_write_bytecode")
_SYS_LISTS: tuple[list[Any], ...] = (sys.path, sys.argv, sys.meta_path, sys.path_hooks)
_SIGNALS = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)


class WorkerState:
    """Working folder, environment variables, search path, limits, signal handlers and patched modules.

    Not restored: background threads, open files, hard resource limits, and what a reward writes to disk.
    """

    def __init__(self) -> None:
        """Record the state of this process."""
        self._folder = os.getcwd()
        self._variables = dict(os.environ)
        self._raw_variables = dict(_raw_environ())
        self._sys = {name: getattr(sys, name) for name in _SYS_NAMES}
        self._lists = [list(names) for names in _SYS_LISTS]
        self._attributes = [dict(vars(module)) for module in _MODULES]
        self._modules = dict(sys.modules)
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._settings = {setting: read() for setting, (read, _) in _SETTINGS.items()}

    def restore(self) -> None:
        """Put the state back."""
        for module, saved in zip(_MODULES, self._attributes, strict=True):  # first: the rest needs `os` as it was
            if vars(module) != saved:
                _put_back(vars(module), saved)
        self._restore_place()
        self._restore_sys()
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for setting, (read, write) in _SETTINGS.items():
            if read() != self._settings[setting]:
                with suppress(ValueError, OSError):  # a lowered hard limit
                    write(self._settings[setting])

    def _restore_place(self) -> None:
        with suppress(OSError):  # the folder was removed
            if _folder() != self._folder:
                os.chdir(self._folder)
        if _raw_environ() != self._raw_variables:
            _put_back(os.environ, self._variables)
            time.tzset()

    def _restore_sys(self) -> None:
        for names, saved in zip(_SYS_LISTS, self._lists, strict=True):
            if names != saved:
                names[:] = saved
        for name, value in self._sys.items():
            if getattr(sys, name, None) is not value:
                setattr(sys, name, value)
        if sys.modules != self._modules:
            sys.modules.update(self._modules)  # removed or replaced ones; a new import stays
            self._modules = dict(sys.modules)


def _put_back(names: Any, saved: dict[str, Any]) -> None:
    for name in set(names) - set(saved):
        del names[name]
    names.update(saved)


def _folder() -> str | None:
    with suppress(OSError):
        return os.getcwd()
    return None  # the folder was removed


def _raw_environ() -> dict[bytes, bytes]:
    raw: dict[bytes, bytes] = vars(os.environ)["_data"]  # comparing `os.environ` decodes it, which takes 70 µs
    return raw


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
_GENERAL: dict[str, Setting] = {
    "umask": (_umask, os.umask),
    "locale": (partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
    "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
    "digits": (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    "timeout": (socket.getdefaulttimeout, socket.setdefaulttimeout),
}
_SETTINGS: dict[str, Setting] = _GENERAL | {
    f"limit {number}": (partial(resource.getrlimit, number), partial(resource.setrlimit, number)) for number in _LIMITS
}
"""How each setting is read and written."""
