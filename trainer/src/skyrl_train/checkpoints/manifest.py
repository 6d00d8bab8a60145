"""One checkpoint: what its manifest says, and whether every file is the one that was written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.atomic_file import flush_to_disk

MANIFEST = "manifest.json"
SCHEMA = 3
"""Version of the manifest. 1 had no random numbers, no record of accepted changes and no provenance, 2 no place in the
data."""


class DamagedCheckpointError(SkyrlError):
    """A file of a checkpoint is missing, unreadable, or not the one that was written."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {checkpoint} is damaged: {reason}. Restore it or name another one; "
            "--resume RUN --skip-damaged goes on from the newest one that is whole"
        )
        self.summary = f"{checkpoint.name} is damaged: {reason}"


def write_manifest(folder: Path, progress: Progress, provenance: Mapping[str, Any]) -> None:
    """Name and hash every file of the folder. With it, all of the folder is on disk when this returns.

    Raises:
        OSError: the folder cannot be read or written.
    """
    files = {path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    content = {"schema": SCHEMA, "progress": asdict(progress), "provenance": dict(provenance), "sha256": files}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
    for path in (*folder.rglob("*"), folder):
        flush_to_disk(path)


def digest(path: Path) -> str:
    """SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(checkpoint: Path) -> Progress:
    """The progress that a checkpoint holds, after checking every file against its hash.

    Raises:
        DamagedCheckpointError: a file is missing, cannot be read or is not the one that was written.
        SkyrlError: a newer version of the trainer wrote it.
    """
    content = _manifest(checkpoint)
    schema = content.get("schema", 1)
    if isinstance(schema, int) and schema > SCHEMA:
        versions = content.get("provenance", {}).get("packages", {})
        writer = f"skyrl-train {versions['skyrl-train']}" if "skyrl-train" in versions else "a newer skyrl-train"
        raise SkyrlError(
            f"checkpoint {checkpoint} was written by {writer}, in version {schema} of the format; this skyrl-train "
            f"reads up to version {SCHEMA}: install the one that wrote it, or a newer one"
        )
    try:
        files, progress = dict(content["sha256"]), Progress(**content["progress"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} makes no sense ({error})") from error
    for name, expected in files.items():
        _check_file(checkpoint, name, expected)
    return Progress(**vars(progress) | {"loss_changes": tuple(progress.loss_changes)})


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        content = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} holds a {type(content).__name__} instead of an object")
    return content


def _check_file(checkpoint: Path, name: str, expected: str) -> None:
    try:
        found = digest(checkpoint / name)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(checkpoint, f"{name} is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{name} cannot be read ({error.strerror})") from error
    if found != expected:
        raise DamagedCheckpointError(checkpoint, f"{name} does not match its hash")
