"""Looks up paths that users give, so that no text can end a command with a traceback."""

from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_core.value_text import show_value


def path_fault(path: str | Path) -> str | None:
    """The reason why a path cannot be looked up; None if it can, whether it exists or not."""
    try:
        Path(path).expanduser().absolute().stat()
    except (FileNotFoundError, NotADirectoryError):
        return _current_folder_fault()
    except RuntimeError:
        return f"the home folder of {str(path).partition('/')[0]} is unknown; write the path without ~"
    except ValueError:
        return "a path cannot contain these characters; correct it"
    except OSError as error:
        return f"cannot be looked up: {(error.strerror or type(error).__name__).lower()}; correct the path"
    return None


def checked_path(path: str | Path) -> Path:
    """The path with `~` expanded; usable as the type of a command-line argument.

    Raises:
        SkyrlError: it cannot be looked up.
    """
    if fault := path_fault(path):
        raise SkyrlError(f"{show_value(str(path))}: {fault}")
    return Path(path).expanduser()


def _current_folder_fault() -> str | None:
    try:
        Path.cwd()
    except OSError:
        return "the current folder does not exist any more; change to another one"
    return None
