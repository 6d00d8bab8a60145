"""Refuses to import code from inside a run folder because the folder's config.yaml names it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.config.problem import Problem
from skyrl_train.config.sources import Sources

KEY = ("environment", "name")


def find_run_folder_code(sources: Sources) -> Iterator[Problem]:
    """The problem of an environment that would be imported from the run folder that names it.

    Somebody else may have sent the folder. An option on the command line, or in another file, shows that it is wanted.
    """
    reference, origin = sources.value(KEY), sources.origin(KEY)
    folder = _run_folder(Path(origin.rpartition(":")[0]))
    if folder is None or not isinstance(reference, str):
        return
    place = reference.rpartition(":")[0]
    if any(path.resolve().is_relative_to(folder) for path in _files(place)):
        key = ".".join(KEY)
        rule = (
            "is code inside the run folder, which is not imported unasked, because the run may be somebody else's: "
            f"read it, then add {key}={reference} to the command"
        )
        yield Problem(key=key, value=reference, rule=rule, origin=origin, error=SkyrlError)


def _run_folder(file: Path) -> Path | None:
    """The run folder whose config.yaml this file is, or None."""
    if file.name != "config.yaml":
        return None
    folder = file.resolve().parent
    return folder if (folder / "run.json").exists() or (folder / "checkpoints").exists() else None


def _files(place: str) -> Iterator[Path]:
    """Where the code of ``file.py`` or ``package.module`` would be found. Imports nothing."""
    try:
        if place.endswith(".py"):
            yield Path(place).expanduser()
            return
        name = place.partition(".")[0]
        yield Path(f"{name}.py")  # in the working folder
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (OSError, RuntimeError, ValueError, ImportError):
        return  # there is no such file or module, which is another problem
    if spec is not None:
        yield from (Path(path) for path in (spec.origin, *(spec.submodule_search_locations or ())) if path)
