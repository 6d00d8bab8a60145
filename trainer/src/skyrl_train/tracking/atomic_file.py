"""A file that is complete or not there: written aside, flushed to disk, renamed."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError

MARK = 4
"""Random bytes in the name of a temporary file."""
_LEFT = re.compile(rf"\..+\.\d+\.[0-9a-f]{{{2 * MARK}}}")


class RunFolderError(SkyrlError):
    """The run folder cannot be made, locked, read or written."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which takes the place of ``path`` when the block ends without an error.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full; names the path and the reason.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(MARK)}")
    try:
        yield aside
        flush_to_disk(aside)
        os.replace(aside, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # where it cannot be removed either, the first error says why
            aside.unlink(missing_ok=True)


def remove_what_was_left_aside(folder: Path) -> None:
    """Files that a killed process had not put in their places. Only for the owner of the folder."""
    for left in folder.iterdir():
        if _LEFT.fullmatch(left.name):
            with suppress(OSError):  # it costs room, nothing else
                left.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file by this content, or leave it as it was.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
    """
    with written_aside(path) as aside:
        aside.write_bytes(content)


def write_error(path: Path, error: OSError) -> RunFolderError:
    """What to tell the user when ``path`` could not be written."""
    reason = error.strerror or str(error)
    return RunFolderError(
        f"cannot write {path}: {reason}. Make room or permit writing there, or choose another run_folder; "
        "what was saved so far is intact, and --resume continues from the last checkpoint."
    )


def flush_to_disk(path: Path) -> None:
    """Wait until the file, or the list of names in the folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
