"""What the installed distributions declare for skyrl, read from their metadata as text: nothing is imported.

Metadata is written by strangers. What comes out of here is short, printable, and never an exception.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import invalidate_caches
from itertools import islice
from typing import NamedTuple

import importlib_metadata as metadata

from skyrl_core.discovery.printable_text import printable, shortened

UNNAMED = "?"
SCRIPT = "script"
"""Stands for the distribution of a plugin that was registered in this process."""

MAX_DECLARATIONS = 500
"""A distribution that declares more is broken, and one row says so: nobody writes so many, and a listing must end."""
MAX_DISTRIBUTION_NAME = 128
MAX_NAME = 64
MAX_VALUE = 200
_MAX_LINE = 2000
# As PyPI takes them. A command that a message suggests holds the name, so it must hold nothing for the shell to read.
_DISTRIBUTION_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Declaration(NamedTuple):
    """One line of an ``entry_points.txt``, as it stands there."""

    group: str
    name: str
    value: str


class InstalledDistribution(NamedTuple):
    """A distribution that declares something in a ``skyrl.*`` group."""

    name: str
    version: str
    summary: str
    requirements: tuple[str, ...]
    folder: str
    declarations: tuple[Declaration, ...]
    problem: str
    """Why its metadata cannot be trusted; empty when it can."""


def fold(name: str) -> str:
    """The form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(distribution: str) -> bool:
    """Whether any distribution of this name is installed, whatever it declares."""
    try:
        metadata.distribution(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def unreadable_entry_points() -> list[str]:
    """The dist-info folders whose entry points Python cannot parse.

    Whatever asks it for plugins fails on them, whoever they belong to: ``import torch`` and pydantic do.
    """
    return [printable(_info(each)) for each in metadata.Distribution.discover() if not _is_readable(each)]


def installed_distributions() -> tuple[InstalledDistribution, ...]:
    """Every distribution that declares a plugin. One scan per process, and one more after each install or uninstall."""
    return _scan(_path_state())


def _path_state() -> tuple[tuple[str, int], ...]:
    # Installing and uninstalling changes the time stamp of the folder that holds the dist-info folders.
    state = []
    for folder in sys.path:
        try:
            state.append((folder, os.stat(folder or os.curdir).st_mtime_ns))
        except OSError:
            continue  # the import system also ignores what is not there
    return tuple(state)


@lru_cache(maxsize=1)
def _scan(path_state: tuple[tuple[str, int], ...]) -> tuple[InstalledDistribution, ...]:  # noqa: ARG001 - the cache key
    invalidate_caches()
    found: dict[str, InstalledDistribution] = {}
    unnamed = []
    for distribution in metadata.Distribution.discover():
        lines = _declarations(_read(distribution, "entry_points.txt"))
        declarations = tuple(islice(lines, MAX_DECLARATIONS + 1))
        if not declarations:
            continue
        this = _describe(distribution, declarations)
        if this.name == UNNAMED:
            unnamed.append(this)
            continue
        first = found.setdefault(fold(this.name), this)
        # Elsewhere on the path the first one wins, as it does for imports (a venv over system packages, lib and lib64).
        # In one folder nothing decides: an upgrade was interrupted.
        if first.folder == this.folder and (first.version, first.declarations) != (this.version, this.declarations):
            copies = " and ".join(sorted(f"{each.name} {each.version or '(no version)'}" for each in (first, this)))
            problem = f"{copies} are both in {this.folder} (an interrupted upgrade?): uninstall both, install one"
            found[fold(this.name)] = min(first, this)._replace(problem=problem)
    return (*found.values(), *sorted(unnamed))


def _describe(distribution: metadata.Distribution, declarations: tuple[Declaration, ...]) -> InstalledDistribution:
    text = _read(distribution, "METADATA") or _read(distribution, "PKG-INFO")
    headers = list(_headers(text))
    first = dict(reversed(headers))
    name = shortened(first.get("name") or UNNAMED, MAX_DISTRIBUTION_NAME + 1)
    return InstalledDistribution(
        name=name if _is_distribution_name(name) else shortened(name, MAX_NAME),
        version=shortened(first.get("version", ""), MAX_NAME),
        summary=shortened(first.get("summary", ""), MAX_VALUE),
        requirements=tuple(value for key, value in headers if key == "requires-dist"),
        folder=str(distribution.locate_file("")),
        declarations=declarations if len(declarations) <= MAX_DECLARATIONS else declarations[:1],
        problem=_problem(distribution, name, text, len(declarations)),
    )


def _problem(distribution: metadata.Distribution, name: str, text: str, declared: int) -> str:
    if name == UNNAMED:
        lack = "names no distribution in its METADATA" if text else "has no METADATA"
        where = printable(_info(distribution))
        return f"{where} {lack} (an interrupted install or uninstall?): delete that folder, and install it again"
    if not _is_distribution_name(name):
        shown = shortened(name, MAX_NAME)
        return f"{shown!r} cannot be the name of a distribution that brings plugins: ask its author for another name"
    if declared > MAX_DECLARATIONS:
        return f"it declares more than {MAX_DECLARATIONS} plugins: ask its author for fewer"
    if not _is_readable(distribution):
        return (
            f"Python cannot read its entry_points.txt, which is not UTF-8 or has a line without `=`: repair or "
            f"uninstall {name}, because `import torch` and others fail on it"
        )
    return ""


def _is_distribution_name(name: str) -> bool:
    return name != SCRIPT and len(name) <= MAX_DISTRIBUTION_NAME and _DISTRIBUTION_NAME.fullmatch(name) is not None


def _info(distribution: metadata.Distribution) -> str:
    # There is no public name for the folder that a distribution was read from.
    return str(getattr(distribution, "_path", distribution.locate_file("")))


def _is_readable(distribution: metadata.Distribution) -> bool:
    try:
        return distribution.entry_points is not None
    except Exception:  # noqa: BLE001 - what it raises is no part of its interface
        return False


def _read(distribution: metadata.Distribution, file: str) -> str:
    try:
        return distribution.read_text(file) or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")  # what can be read still counts; the rest is no valid name
    except Exception:  # noqa: BLE001 - no metadata on the machine, be it in a damaged zip, may stop a listing
        return ""


def _declarations(text: str) -> Iterator[Declaration]:
    # Not Distribution.entry_points: it raises on a line without "=", and reads every group of every distribution.
    if "[skyrl." not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = shortened(line.strip("[]").strip(), MAX_VALUE)
        elif group.startswith("skyrl.") and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield Declaration(group, shortened(name.strip(), MAX_NAME), shortened(value.strip(), MAX_VALUE))


def _headers(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):  # not splitlines: a header may hold a line separator of Unicode, or a form feed
        if not line.strip():
            return  # the long description follows
        key, colon, value = line[:_MAX_LINE].partition(":")
        if colon and not line[0].isspace():
            yield key.lower(), printable(value.strip())
