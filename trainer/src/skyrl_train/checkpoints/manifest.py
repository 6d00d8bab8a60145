"""The manifest of a checkpoint: progress, provenance, and the hash of every file and of itself."""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.required_files import find_gap
from skyrl_train.record.progress import Progress
from skyrl_train.tracking.atomic_file import flush_to_disk

MANIFEST = "manifest.json"
SCHEMA = 4
"""Version of the manifest. Version 1 had no random numbers, accepted changes or provenance; 2 no position in the data;
3 no fingerprint of the run and no checksum of the manifest."""
LAST_SCHEMA = 1000
"""A higher version is damage, not a newer format."""
LARGEST = 64 * 2**20
"""Bytes; a manifest lists a few files per rank."""
STEP_NAME = re.compile(r"step_(\d{6,})")


class DamagedCheckpointError(SkyrlError):
    """A file of a checkpoint is missing, unreadable or changed."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(
            f"checkpoint {checkpoint} is damaged: {reason}. Restore it, name another one, or add --skip-damaged to "
            "--resume RUN to resume from the newest intact one"
        )
        self.summary = f"{checkpoint.name} is damaged: {reason}"


def _inside(name: str) -> str:
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("must be the path of a file inside the checkpoint")
    return name


def _readable_loss(loss: dict[str, Any]) -> dict[str, Any]:
    for part in (loss, *TypeAdapter(list[dict[str, Any]]).validate_python(loss.get("components", []))):
        TypeAdapter(dict[str, Any]).validate_python(part.get("params", {}))
    return loss


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./+-]{1,512}$"), AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Accepted(BaseModel):
    """An accepted change, as resuming reads it."""

    step: int
    changes: list[str]


def _readable_changes(progress: Progress) -> Progress:
    for change in (*progress.loss_changes, *progress.accepted_changes):
        _Accepted.model_validate(change)
    _readable_loss(progress.loss)
    return progress


class Manifest(BaseModel):
    """The content of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: int = Field(default=1, alias="schema", ge=1, le=SCHEMA)
    progress: Annotated[Progress, AfterValidator(_readable_changes)]
    provenance: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[FileName, Sha256]
    checksum: Sha256 | None = None


def write_manifest(folder: Path, progress: Progress, provenance: Mapping[str, Any]) -> None:
    """Write the name and hash of every file of the folder, and flush the folder to disk.

    Raises:
        OSError: the folder cannot be read or written.
    """
    files = {path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    content = {"schema": SCHEMA, "progress": asdict(progress), "provenance": dict(provenance), "sha256": files}
    content = json.loads(json.dumps(content))  # as it will be read: a tuple becomes a list
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(content | {"checksum": checksum(content)}, file, indent=2)
    for path in (*folder.rglob("*"), folder):
        flush_to_disk(path)


def digest(path: Path) -> str:
    """SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without its checksum, independent of spaces and of the order of keys."""
    text = json.dumps({key: value for key, value in content.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read(checkpoint: Path) -> Progress:
    """The progress that a checkpoint holds, after checking the manifest and every file against its hash.

    Raises:
        DamagedCheckpointError: the manifest was edited, or a file is missing, unreadable or changed.
        SkyrlError: a newer version of the trainer wrote it.
    """
    manifest = _manifest(checkpoint)
    progress = manifest.progress
    for name in (checkpoint.name, checkpoint.resolve().name):
        match = STEP_NAME.fullmatch(name)
        if match and int(match[1]) != progress.step:
            raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is that of step {progress.step}")
    problem = find_gap(progress, manifest.sha256, checkpoint, has_random=manifest.version > 1)
    if problem is not None:
        raise DamagedCheckpointError(checkpoint, problem)
    for name, expected in manifest.sha256.items():
        _check_file(checkpoint, name, expected)
    return progress


def _manifest(checkpoint: Path) -> Manifest:
    raw = _read_bytes(checkpoint)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} holds a {type(content).__name__} instead of an object")
    version = content.get("schema", 1)
    if isinstance(version, int) and SCHEMA < version <= LAST_SCHEMA:
        raise _too_new(checkpoint, content, version)
    if version == SCHEMA and content.get("checksum") != _checksum_or_none(content):
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} does not match its checksum: it was edited")
    try:
        manifest = Manifest.model_validate_json(raw)
    except (ValidationError, RecursionError) as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is invalid ({_first_fault(error)})") from error
    newer = (manifest.checksum, manifest.progress.fingerprint, manifest.progress.accepted_changes)
    if any(newer) if version < SCHEMA else manifest.checksum is None:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is invalid (its schema was edited)")
    return manifest


def _read_bytes(checkpoint: Path) -> bytes:
    file = checkpoint / MANIFEST
    try:
        found = file.lstat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is not a regular file")
        if found.st_size > LARGEST:
            raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is too large ({found.st_size:,} bytes)")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} cannot be read ({error.strerror})") from error


def _checksum_or_none(content: dict[str, Any]) -> str | None:
    try:
        return checksum(content)
    except (ValueError, RecursionError):  # half of a surrogate pair, or nested too deeply
        return None


def _too_new(checkpoint: Path, content: dict[str, Any], version: int) -> SkyrlError:
    try:
        writer = f"skyrl-train {content['provenance']['packages']['skyrl-train']}"
    except (KeyError, TypeError, IndexError):
        writer = "a newer skyrl-train"
    return SkyrlError(
        f"checkpoint {checkpoint} was written by {writer}, in version {version} of the format; this skyrl-train "
        f"reads up to version {SCHEMA}: install the version that wrote it, or a newer one"
    )


def _first_fault(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"


def _check_file(checkpoint: Path, name: str, expected: str) -> None:
    path = checkpoint
    try:
        for part in name.split("/"):
            path = path / part
            if path.is_symlink():
                raise DamagedCheckpointError(
                    checkpoint, f"{name} is a link; to use such a checkpoint, copy it with its files (`cp -rL`)"
                )
        if not (stat.S_ISREG(path.stat().st_mode) or path.is_dir()):
            raise DamagedCheckpointError(checkpoint, f"{name} is not a regular file")
        found = digest(path)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(checkpoint, f"{name} is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{name} cannot be read ({error.strerror})") from error
    if found != expected:
        raise DamagedCheckpointError(checkpoint, f"{name} does not match its hash")
