"""Atomic writes: a file is written under a temporary name, flushed to disk and renamed."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError

MARK = 4
"""Random bytes in the name of a temporary file."""
_TEMPORARY = re.compile(rf"\..+\.\d+\.[0-9a-f]{{{2 * MARK}}}")


class RunFolderError(SkyrlError):
    """The run folder cannot be created, locked, read or written."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it replaces ``path`` if the block ends without an error.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full. The error gives path and reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(MARK)}")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # the first error already gives the reason
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files that a killed process left behind. Only for the owner of the folder."""
    for entry in folder.iterdir():
        if _TEMPORARY.fullmatch(entry.name):
            with suppress(OSError):  # a leftover file only takes space
                entry.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of the file, or leave the file unchanged.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_error(path: Path, error: OSError) -> RunFolderError:
    """The error for a ``path`` that could not be written."""
    reason = error.strerror or str(error)
    return RunFolderError(
        f"cannot write {path}: {reason}. Make room or permit writing there, or choose another run_folder. "
        "Everything saved so far is intact; --resume continues from the last checkpoint."
    )


def flush_to_disk(path: Path) -> None:
    """Wait until the file, or the list of names in the folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
