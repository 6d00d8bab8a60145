"""Creates the folder of a new run."""

import itertools
import re
from datetime import datetime
from pathlib import Path

from skyrl_train.tracking.atomic_file import RunFolderError, write_error


def make_folder(path: Path) -> Path:
    """The folder, which may exist.

    Raises:
        RunFolderError: it is a file, or cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunFolderError(f"the run folder {path} is a file: choose another run_folder.") from error
    except OSError as error:
        raise write_error(path, error) from error
    return path


def make_unique_folder(root: Path, title: str) -> Path:
    """A new folder ``<title>-<date>-<time>`` below the root.

    Raises:
        RunFolderError: it cannot be created.
    """
    make_folder(root)
    name = f"{_file_name(title)}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()  # fails if it exists, so two runs started in the same second get two folders
        except FileExistsError:
            continue
        except OSError as error:
            raise write_error(path, error) from error
        return path
    raise AssertionError("unreachable: count() never ends")


def _file_name(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.")[:80] or "run"
