"""The skyrl declarations of installed distributions, read from metadata as text without any import.

Metadata is untrusted: whatever it contains, results are short and printable, and nothing raises.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import invalidate_caches
from itertools import islice
from typing import NamedTuple

import importlib_metadata as metadata

from skyrl_core.discovery.metadata_files import (
    MAX_BYTES,
    Content,
    FinderFailure,
    discovered,
    find_distribution,
    irregular_files,
    read_metadata,
)
from skyrl_core.printable_text import printable, shortened

ENTRY_POINTS = "entry_points.txt"

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


_UNKNOWN = Declaration("skyrl.policy_losses", UNNAMED, "")
"""Stands in for the declarations of a distribution that cannot be read, so that a listing shows it."""


def fold(name: str) -> str:
    """The normalized name of a distribution, for comparisons (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(distribution: str) -> bool:
    """Whether any distribution of this name is installed, whatever it declares."""
    return find_distribution(distribution) is not None


def unreadable_entry_points() -> list[str]:
    """The dist-info folders whose entry points Python cannot parse.

    Everything that reads entry points fails on these, whichever package they belong to, even ``import torch``.
    """
    found = (each for each in discovered() if not isinstance(each, FinderFailure))
    return [printable(_info(each)) for each in found if not _is_readable(read_metadata(each, ENTRY_POINTS))]


def endless_files() -> list[str]:
    """The metadata files on which other libraries wait forever, such as a FIFO or a link to a device."""
    found = (each for each in discovered() if not isinstance(each, FinderFailure))
    return [printable(file) for each in found for file in irregular_files(each)]


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
    for distribution in discovered():
        this = _of_finder(distribution) if isinstance(distribution, FinderFailure) else _described(distribution)
        if this is None:
            continue
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


def _of_finder(failure: FinderFailure) -> InstalledDistribution:
    return InstalledDistribution(UNNAMED, "", "", (), "", (_UNKNOWN,), failure.reason)


def _described(distribution: metadata.Distribution) -> InstalledDistribution | None:
    """None if it declares nothing of ours; one broken row if nobody can tell what it declares."""
    points = read_metadata(distribution, ENTRY_POINTS)
    declarations = tuple(islice(_declarations(points.text), MAX_DECLARATIONS + 1))
    if points.irregular or not points.is_complete:
        declarations = (_UNKNOWN,)
    if not declarations:
        return None
    content = read_metadata(distribution, "METADATA")
    text = content.text if content.data or content.irregular else read_metadata(distribution, "PKG-INFO").text
    headers = list(_headers(text))
    first = dict(reversed(headers))
    name = shortened(first.get("name") or UNNAMED, MAX_DISTRIBUTION_NAME + 1)
    return InstalledDistribution(
        name=name if _is_distribution_name(name) else shortened(name, MAX_NAME),
        version=shortened(first.get("version", ""), MAX_NAME),
        summary=shortened(first.get("summary", ""), MAX_VALUE),
        requirements=tuple(value for key, value in headers if key == "requires-dist"),
        folder=_folder(distribution),
        declarations=declarations if len(declarations) <= MAX_DECLARATIONS else declarations[:1],
        problem=_unusable_file(distribution, points, content)
        or _problem(distribution, name, text, points, declarations),
    )


def _folder(distribution: metadata.Distribution) -> str:
    try:
        return str(distribution.locate_file(""))
    except Exception:  # noqa: BLE001 - the class may belong to anyone's import finder
        return ""


def _unusable_file(distribution: metadata.Distribution, points: Content, content: Content) -> str:
    for file, found in ((ENTRY_POINTS, points), ("METADATA", content)):
        if found.irregular:
            return f"{printable(_info(distribution))}/{file} is {found.irregular}, not a file: repair or delete it"
    if not points.is_complete:
        return (
            f"{printable(_info(distribution))}/{ENTRY_POINTS} is larger than {MAX_BYTES >> 20} MiB: repair or delete it"
        )
    return ""


def _problem(
    distribution: metadata.Distribution, name: str, text: str, points: Content, declarations: Sequence[Declaration]
) -> str:
    if name == UNNAMED:
        lack = "has no name in its METADATA" if text else "has no METADATA"
        where = printable(_info(distribution))
        return f"{where} {lack} (an interrupted install or uninstall?): delete that folder and reinstall the package"
    if not _is_distribution_name(name):
        shown = shortened(name, MAX_NAME)
        return f"{shown!r} is not a valid name for a distribution with plugins: ask its author to rename it"
    if len(declarations) > MAX_DECLARATIONS:
        return f"it declares more than {MAX_DECLARATIONS} plugins: ask its author for fewer"
    if not _is_readable(points):
        return (
            f"Python cannot read its entry_points.txt, which is not UTF-8 or has a line without `=`: repair or "
            f"uninstall {name}, because `import torch` and others fail on it"
        )
    return ""


def _is_distribution_name(name: str) -> bool:
    return name != SCRIPT and len(name) <= MAX_DISTRIBUTION_NAME and _DISTRIBUTION_NAME.fullmatch(name) is not None


def _info(distribution: metadata.Distribution) -> str:
    # The folder that a distribution was read from has no public attribute.
    return str(getattr(distribution, "_path", None) or _folder(distribution))


def _is_readable(points: Content) -> bool:
    """Whether Python can parse these entry points: it raises on a line without `=` in a section."""
    complete = points.data if points.is_complete else points.data[: points.data.rfind(b"\n") + 1]
    try:
        lines = complete.decode().splitlines()
    except UnicodeDecodeError:
        return False
    in_section = False
    for line in map(str.strip, lines):
        if line.startswith("[") and line.endswith("]"):
            in_section = True
        elif in_section and line and not line.startswith("#") and "=" not in line:
            return False
    return True


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
