"""Finds installed distributions and reads their metadata files, whatever state these are in.

A file is read only if it is regular, and only up to a bound: a FIFO, a device or a link to one never ends. The finders
on ``sys.meta_path`` and the classes that they return may belong to anyone, so they may raise anything.
"""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import importlib_metadata as metadata

from skyrl_core.discovery.plugin_call import error_text

MAX_BYTES = 1 << 20
"""How much of a file is read. The largest entry_points.txt on PyPI has some 100 KB; long METADATA ends in prose."""
MAX_DISTRIBUTIONS = 100_000

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Content(NamedTuple):
    """The beginning of a metadata file."""

    data: bytes = b""
    """Empty if the file is missing or cannot be read."""
    is_complete: bool = True
    irregular: str = ""
    """What the file is if it is not regular, such as ``a FIFO``: whoever reads it may wait forever."""

    @property
    def text(self) -> str:
        """Readable lines count even if others are not UTF-8."""
        return self.data.decode(errors="replace")


class FinderFailure(NamedTuple):
    """An import finder that cannot list its distributions."""

    reason: str


def discovered(name: str | None = None) -> Iterator[metadata.Distribution | FinderFailure]:
    """Every installed distribution, or those of a name, in the order of ``sys.path``."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    untyped: Any = metadata.DistributionFinder.Context
    context = untyped(path=path, **({"name": name} if name else {}))
    for finder in list(sys.meta_path):
        try:
            find: Any = getattr(finder, "find_distributions", None)
            if find is not None:
                yield from islice(find(context), MAX_DISTRIBUTIONS)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the others must be listed all the same
            kind = finder if isinstance(finder, type) else type(finder)
            yield FinderFailure(
                f"the import finder {kind.__module__}.{kind.__qualname__} fails: {error_text(error)}: repair or "
                "uninstall the package that adds it to sys.meta_path"
            )


def find_distribution(name: str) -> metadata.Distribution | None:
    """The distribution of a name that imports would use; None if it is not installed."""
    found = [each for each in discovered(name) if not isinstance(each, FinderFailure)] if name else []
    return next((each for each in found if read_metadata(each, "METADATA").data), found[0] if found else None)


def installed_version(name: str) -> str | None:
    """The version in the metadata of a distribution; None if it is not installed or has none."""
    distribution = find_distribution(name)
    lines = read_metadata(distribution, "METADATA").text.split("\n") if distribution is not None else []
    return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("version:")), None)


def read_metadata(distribution: metadata.Distribution, file: str) -> Content:
    """The beginning of a file in the metadata folder of a distribution. Never raises or waits."""
    try:
        folder = getattr(distribution, "_path", None)  # no public attribute has it
        if isinstance(folder, Path):
            return _read_file(folder / file)
        if folder is None:
            data = (distribution.read_text(file) or "").encode(errors="replace")
        else:  # a folder in a zip file
            with folder.joinpath(file).open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - no metadata may stop a listing, not even a damaged zip
        return Content()
    return Content(data[:MAX_BYTES], is_complete=len(data) <= MAX_BYTES)


def irregular_files(distribution: metadata.Distribution) -> list[str]:
    """The files in the metadata folder of a distribution whose readers may wait forever, each with its kind."""
    folder = getattr(distribution, "_path", None)
    if not isinstance(folder, Path):
        return []
    found = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            if not (entry.is_file() or entry.is_dir()) and os.path.exists(entry.path):
                found.append(f"{entry.path}, which is {_irregular(entry.stat().st_mode)}")
    return found


def _read_file(path: Path) -> Content:
    if kind := _irregular(os.stat(path).st_mode):
        return Content(irregular=kind)
    with open(os.open(path, os.O_RDONLY | _NO_WAIT), "rb") as stream:
        if kind := _irregular(os.fstat(stream.fileno()).st_mode):  # replaced meanwhile
            return Content(irregular=kind)
        data = stream.read(MAX_BYTES + 1)
    return Content(data[:MAX_BYTES], is_complete=len(data) <= MAX_BYTES)


def _irregular(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")
