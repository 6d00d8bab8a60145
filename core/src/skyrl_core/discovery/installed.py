"""The skyrl declarations of installed distributions, read from metadata as text without any import.

Metadata is untrusted: whatever it contains, results are short and printable, and nothing raises.
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

from skyrl_core.printable_text import printable, shortened

UNNAMED = "?"
SCRIPT = "script"
"""The distribution name of plugins that are registered in this process."""

MAX_DECLARATIONS = 500
"""A distribution that declares more is listed as one broken row: no real package does, and a listing must end."""
MAX_DISTRIBUTION_NAME = 128
MAX_NAME = 64
MAX_VALUE = 200
_MAX_LINE = 2000
# The rule of PyPI. Messages suggest commands that contain the name, so it must not contain shell syntax.
_DISTRIBUTION_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Declaration(NamedTuple):
    """One line of an ``entry_points.txt``, as written there."""

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
    """Why its metadata cannot be trusted; empty if it can."""


def fold(name: str) -> str:
    """The normalized name of a distribution, for comparisons (PEP 503)."""
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

    Everything that reads entry points fails on these, whichever package they belong to, even ``import torch``.
    """
    return [printable(_info(each)) for each in metadata.Distribution.discover() if not _is_readable(each)]


def installed_distributions() -> tuple[InstalledDistribution, ...]:
    """Every distribution that declares a plugin, scanned once and after each install or uninstall."""
    return _scan(_path_state())


def _path_state() -> tuple[tuple[str, int], ...]:
    # Installing and uninstalling changes the time stamp of the folder that holds the dist-info folders.
    state = []
    for folder in sys.path:
        try:
            state.append((folder, os.stat(folder or os.curdir).st_mtime_ns))
        except OSError:
            continue  # the import system also ignores missing folders
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
        # In different folders the first one wins, as for imports (a venv over system packages, lib and lib64).
        # Two in one folder are left from an interrupted upgrade, and nothing tells which one is right.
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
        lack = "has no name in its METADATA" if text else "has no METADATA"
        where = printable(_info(distribution))
        return f"{where} {lack} (an interrupted install or uninstall?): delete that folder and reinstall the package"
    if not _is_distribution_name(name):
        shown = shortened(name, MAX_NAME)
        return f"{shown!r} is not a valid name for a distribution with plugins: ask its author to rename it"
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
    # The folder that a distribution was read from has no public attribute.
    return str(getattr(distribution, "_path", distribution.locate_file("")))


def _is_readable(distribution: metadata.Distribution) -> bool:
    try:
        return distribution.entry_points is not None
    except Exception:  # noqa: BLE001 - the exceptions that it raises are not documented
        return False


def _read(distribution: metadata.Distribution, file: str) -> str:
    try:
        return distribution.read_text(file) or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")  # readable lines still count; the rest is not a valid name
    except Exception:  # noqa: BLE001 - no metadata may stop a listing, not even a damaged zip
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
