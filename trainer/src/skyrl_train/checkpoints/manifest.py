"""The manifest of a checkpoint: progress, provenance, and the hash of every file."""

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
"""Version of the manifest. Version 1 had no random numbers, accepted changes or provenance; 2 no position in the data.
"""


class DamagedCheckpointError(SkyrlError):
    """A file of a checkpoint is missing, unreadable or changed."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {checkpoint} is damaged: {reason}. Restore it, name another one, or add --skip-damaged to "
            "--resume RUN to resume from the newest intact one"
        )
        self.summary = f"{checkpoint.name} is damaged: {reason}"


def write_manifest(folder: Path, progress: Progress, provenance: Mapping[str, Any]) -> None:
    """Write the name and hash of every file of the folder, and flush the folder to disk.

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
        DamagedCheckpointError: a file is missing, unreadable or changed.
        SkyrlError: a newer version of the trainer wrote it.
    """
    content = _manifest(checkpoint)
    schema = content.get("schema", 1)
    if isinstance(schema, int) and schema > SCHEMA:
        versions = content.get("provenance", {}).get("packages", {})
        writer = f"skyrl-train {versions['skyrl-train']}" if "skyrl-train" in versions else "a newer skyrl-train"
        raise SkyrlError(
            f"checkpoint {checkpoint} was written by {writer}, in version {schema} of the format; this skyrl-train "
            f"reads up to version {SCHEMA}: install the version that wrote it, or a newer one"
        )
    try:
        files, progress = dict(content["sha256"]), Progress(**content["progress"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is invalid ({error})") from error
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
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is not JSON ({error})") from error
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
