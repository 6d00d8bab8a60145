"""The checkpoints of a run: each is complete or invisible, and the latest K are kept.

A checkpoint is written into a hidden folder, hashed, flushed to disk and renamed to ``step_N``. It is renamed to a
hidden name before it is deleted. So every folder ``step_N`` was complete once, whenever a run is killed. The file
``latest`` names the newest one for scripts; the trainer looks at the folders.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.manifest import MANIFEST, STEP_NAME
from skyrl_train.tracking.atomic_file import flush_to_disk, write_bytes

PARTIAL = ".partial"
"""Suffix of a hidden folder that is being written."""
REPLACED = ".replaced"
"""Suffix of a checkpoint that a newer one of the same step replaces."""
REMOVED = ".removed"
"""Suffix of a checkpoint that is being deleted."""
CONVERTED = ".converted"
"""Suffix of a copy for another number of ranks, which is deleted once the ranks have read it."""
LATEST = "latest"
PROBE = 4 * 2**20
"""Bytes to write in order to learn why a write failed."""


def partial_folder(folder: Path, step: int) -> Path:
    """The hidden folder in which ``step_N`` is written."""
    return _hidden(folder / f"step_{step:06d}", PARTIAL)


def target(partial: Path) -> Path:
    """The checkpoint that the hidden folder becomes."""
    return partial.with_name(partial.name.removeprefix(".").removesuffix(PARTIAL))


def begin(partial: Path) -> None:
    """Remove what a killed run left, then create the hidden folder.

    Raises:
        OSError, SkyrlError: it cannot be created.
    """
    folder = partial.parent
    clear(folder)
    new = not folder.exists()
    partial.mkdir(parents=True)
    if new:
        flush_to_disk(folder.parent)


def publish(partial: Path) -> Path:
    """Turn the hidden folder, with all files and the manifest, into the newest checkpoint.

    Raises:
        OSError, SkyrlError: the folder cannot be written; earlier checkpoints are unchanged.
    """
    path = target(partial)
    _put_in_place(partial, path)
    write_bytes(path.with_name(LATEST), f"{path.name}\n".encode())
    return path


def discard(partial: Path) -> None:
    """Remove an incomplete checkpoint, which also frees space to record how the run ends."""
    shutil.rmtree(partial, ignore_errors=True)  # whatever remains is hidden, and the next start removes it


def save_error(partial: Path, error: Exception) -> SkyrlError:
    """The error that explains why the checkpoint could not be written."""
    path = target(partial)
    reason = failure_reason(error, path.parent)
    with suppress(OSError):  # a broken disk may not report its free space
        reason += f" ({shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB are free there)"
    return SkyrlError(
        f"cannot write checkpoint {path}: {reason}; earlier checkpoints are intact. Free space or make the folder "
        "writable, then resume with --resume"
    )


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}{ending}")


def failure_reason(error: Exception, folder: Path) -> str:
    """A short reason why a write below the folder failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    try:  # torch reports only that a write failed; another write shows the system's reason
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE))
    except OSError as cause:
        return cause.strerror or str(cause)
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _put_in_place(partial: Path, target: Path) -> None:
    replaced = _hidden(target, REPLACED)
    if target.exists():
        target.rename(replaced)  # `recover` restores it if the run is killed here
    partial.rename(target)
    flush_to_disk(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below the folder, oldest first. Only ``read`` checks that one is still complete."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _is_checkpoint(path)), key=_step)


def find(path: Path) -> Path:
    """The checkpoint at this path, or the latest one of a run folder.

    Raises:
        SkyrlError: no checkpoint exists there.
    """
    return candidates(path)[0]


def candidates(path: Path) -> list[Path]:
    """The checkpoint at this path and all earlier ones of its run, latest first.

    Raises:
        SkyrlError: no checkpoint exists there.
    """
    if _is_checkpoint(path):
        earlier = [other for other in checkpoints(path.parent) if _step(other) < _step(path)]
        return [path, *reversed(earlier)]
    if (path / MANIFEST).is_file():  # a copy under another name
        return [path]
    for folder in (path / "checkpoints", path):
        found = checkpoints(folder)
        if found:
            return found[::-1]
    if (path / "run.json").is_file():
        raise SkyrlError(
            f"the run in {path} ended before its first checkpoint, so it cannot be resumed: remove the folder and "
            "start again; lower checkpoint.every to save more often"
        )
    raise SkyrlError(f"no complete checkpoint in {path}: give a run folder, or a folder step_N below its checkpoints/")


def recover(folder: Path) -> None:
    """Restore a checkpoint that was moved away for a replacement that never appeared.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    for replaced in folder.glob(f".step_*{REPLACED}"):
        target = replaced.with_name(replaced.name.removeprefix(".").removesuffix(REPLACED))
        try:
            if not target.exists():
                replaced.rename(target)
        except OSError as error:
            raise SkyrlError(f"cannot rename {replaced} to {target.name}: {error.strerror or error}") from error


def clear(folder: Path) -> None:
    """Remove what a killed run left incomplete. Only the owner of the run folder may call it.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    recover(folder)
    hidden = [f".step_*{ending}" for ending in (PARTIAL, REPLACED, REMOVED, CONVERTED)]
    for pattern in (*hidden, f"step_*/.*{PARTIAL}"):  # the last one: an incomplete export
        for left in folder.glob(pattern):
            try:
                shutil.rmtree(left)
            except OSError as error:
                raise _removal_error(left, error) from error
    for left in folder.glob(f".{LATEST}.*"):
        try:
            left.unlink()
        except OSError as error:
            raise _removal_error(left, error) from error


def _removal_error(left: Path, error: OSError) -> SkyrlError:
    return SkyrlError(f"cannot remove {left}, the remains of an interrupted save: {error.strerror or error}")


def finish(folder: Path, step: int, keep: int) -> None:
    """Name the newest checkpoint and prune, in case the run was killed right after its checkpoint.

    Args:
        folder: ``checkpoints`` of the run folder.
        step: step of the checkpoint that the run resumes from. Later checkpoints are abandoned: they are hidden now,
            so that no run resumes from them, and deleted at the next save.
        keep: number of checkpoints to keep up to this step.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    for path in checkpoints(folder):
        if _step(path) > step:
            _hide(path)
    remaining = checkpoints(folder)
    if remaining:
        write_bytes(folder / LATEST, f"{remaining[-1].name}\n".encode())
    prune(folder, step, keep)


def prune(folder: Path, step: int, keep: int) -> None:
    """Keep the newest ``keep`` (at least 1) checkpoints up to this step; delete all others.

    Raises:
        SkyrlError: a checkpoint cannot be deleted.
    """
    # A checkpoint without a manifest is useless: it does not count towards `keep`.
    kept = [_step(path) for path in checkpoints(folder) if _step(path) <= step and (path / MANIFEST).is_file()][-keep:]
    for path in checkpoints(folder):
        if (kept and _step(path) < kept[0]) or _step(path) > step:
            hidden = _hide(path)
            try:
                shutil.rmtree(hidden)
            except OSError as error:
                raise _prune_error(path, error) from error


def _hide(checkpoint: Path) -> Path:
    """Rename it to a hidden name; ``clear`` deletes it later if the caller does not."""
    hidden = _hidden(checkpoint, REMOVED)
    try:
        checkpoint.rename(hidden)
    except OSError as error:
        raise _prune_error(checkpoint, error) from error
    return hidden


def _prune_error(checkpoint: Path, error: OSError) -> SkyrlError:
    reason = error.strerror or error
    return SkyrlError(f"cannot delete {checkpoint}, beyond checkpoint.keep: {reason}; the others are intact")


def _is_checkpoint(path: Path) -> bool:
    return STEP_NAME.fullmatch(path.name) is not None and path.is_dir()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))
