"""A folder of files that is complete or not there: written aside, then renamed."""

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files, by relative POSIX path, into a folder that is empty or not there yet. Overwrites nothing.

    Raises:
        SkyrlError: the folder has something in it or is none, cannot be written, or the disk is full; what was written
            until then, folders included, is gone.
    """
    folder = folder.absolute()
    try:
        with ExitStack() as undo:
            _check_that_it_is_free(folder)
            _make_parents(folder, undo)
            aside = _place_aside(folder)
            undo.callback(shutil.rmtree, aside, ignore_errors=True)
            for relative, text in files.items():
                path = aside / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            _publish(aside, folder, undo)
            undo.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SkyrlError(
            f"cannot write {folder}: {reason}. Nothing half-written is left; make room or permit writing, or choose "
            "another place with --folder"
        ) from error


def _check_that_it_is_free(folder: Path) -> None:
    if folder.is_dir():
        if there := sorted(entry.name for entry in folder.iterdir()):
            raise SkyrlError(
                f"the folder {folder} is not empty, it has {there[0]!r} in it: nothing was written, because nothing is "
                "ever overwritten; choose another place with --folder"
            )
    elif os.path.lexists(folder):
        raise SkyrlError(f"{folder} exists and is no folder: nothing was written; choose another place with --folder")


def _make_parents(folder: Path, undo: ExitStack) -> None:
    for parent in reversed([parent for parent in folder.parents if not parent.exists()]):
        parent.mkdir()
        undo.callback(_remove_if_empty, parent)


def _place_aside(folder: Path) -> Path:
    # Beside the folder, or inside one that exists: it may be the current folder of a shell, and must stay that one.
    home = folder if folder.is_dir() else folder.parent
    aside = home / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}"
    aside.mkdir()
    return aside


def _publish(aside: Path, folder: Path, undo: ExitStack) -> None:
    if aside.parent != folder:
        aside.rename(folder)  # an error if somebody has put something there meanwhile
        return
    for entry in sorted(aside.iterdir()):
        if os.path.lexists(folder / entry.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        undo.callback(_remove, folder / entry.name)
        entry.rename(folder / entry.name)
    aside.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody has put something there meanwhile, which stays
        folder.rmdir()
