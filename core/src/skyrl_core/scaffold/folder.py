"""Writes a folder atomically: under a temporary name, then renamed."""

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files, by relative POSIX path, into a new or empty folder; nothing is overwritten.

    Raises:
        SkyrlError: the folder is not empty, is not a folder, cannot be written, or the disk is full; everything written
            until then, folders included, is removed.
    """
    folder = folder.absolute()
    try:
        with ExitStack() as undo:
            _check_is_free(folder)
            _make_parents(folder, undo)
            staging = _make_staging_folder(folder)
            undo.callback(shutil.rmtree, staging, ignore_errors=True)
            for relative, text in files.items():
                path = staging / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            _publish(staging, folder, undo)
            undo.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SkyrlError(
            f"cannot write {folder}: {reason}; no partial files were left. Free disk space or fix the permissions, or "
            "choose another folder with --folder"
        ) from error


def _check_is_free(folder: Path) -> None:
    if folder.is_dir():
        if entries := sorted(entry.name for entry in folder.iterdir()):
            raise SkyrlError(
                f"the folder {folder} is not empty; it contains {entries[0]!r}. Existing files are never overwritten: "
                "choose another folder with --folder"
            )
    elif os.path.lexists(folder):
        raise SkyrlError(f"{folder} exists and is not a folder; choose another one with --folder")


def _make_parents(folder: Path, undo: ExitStack) -> None:
    for parent in reversed([parent for parent in folder.parents if not parent.exists()]):
        parent.mkdir()
        undo.callback(_remove_if_empty, parent)


def _make_staging_folder(folder: Path) -> Path:
    # Next to the folder, or inside one that exists: it may be the current folder of a shell and must not be replaced.
    location = folder if folder.is_dir() else folder.parent
    staging = location / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}"
    staging.mkdir()
    return staging


def _publish(staging: Path, folder: Path, undo: ExitStack) -> None:
    if staging.parent != folder:
        staging.rename(folder)  # fails if another process has put something there meanwhile
        return
    for entry in sorted(staging.iterdir()):
        if os.path.lexists(folder / entry.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        undo.callback(_remove, folder / entry.name)
        entry.rename(folder / entry.name)
    staging.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # another process has put something there meanwhile: keep it
        folder.rmdir()
