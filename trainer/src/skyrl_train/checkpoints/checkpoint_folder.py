"""The checkpoints of a run: each is complete or invisible, and the latest K are kept.

A checkpoint is written into a hidden folder, hashed, flushed to disk and renamed to ``step_N``. One that goes is hidden
by a rename before its files are removed. So a folder ``step_N`` was complete once, whenever a run is killed. The file
``latest`` names the newest one, for scripts; the trainer itself looks at the folders.
"""

import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.manifest import MANIFEST
from skyrl_train.tracking.atomic_file import flush_to_disk, write_bytes

PARTIAL = ".partial"
"""Ends the name of a hidden folder that is being written."""
REPLACED = ".replaced"
"""... of a checkpoint whose successor of the same step takes its place."""
REMOVED = ".removed"
"""... of a checkpoint that is being removed."""
CONVERTED = ".converted"
"""... of a copy for another number of ranks, which lives until the ranks have read it."""
LATEST = "latest"
PROBE = 4 * 2**20
"""Bytes that are written to learn why more could not be."""
_NAME = re.compile(r"step_(\d{6,})")


def aside(folder: Path, step: int) -> Path:
    """The hidden folder in which ``step_N`` is made."""
    return _hidden(folder / f"step_{step:06d}", PARTIAL)


def target(aside: Path) -> Path:
    """The checkpoint that such a folder becomes."""
    return aside.with_name(aside.name.removeprefix(".").removesuffix(PARTIAL))


def begin(aside: Path) -> None:
    """Make the hidden folder, once what a killed run has left is removed.

    Raises:
        OSError, SkyrlError: it cannot be made.
    """
    folder = aside.parent
    clear(folder)
    new = not folder.exists()
    aside.mkdir(parents=True)
    if new:
        flush_to_disk(folder.parent)


def publish(aside: Path) -> Path:
    """Make the hidden folder, now that all files and the manifest are there, the newest checkpoint.

    Raises:
        OSError, SkyrlError: the folder cannot be written; earlier checkpoints stay as they are.
    """
    path = target(aside)
    _put_in_place(aside, path)
    write_bytes(path.with_name(LATEST), f"{path.name}\n".encode())
    return path


def give_up(aside: Path) -> None:
    """Remove what is half written: it makes room for what the run still has to say."""
    shutil.rmtree(aside, ignore_errors=True)  # what resists is hidden, and goes with the next start


def not_written(aside: Path, error: Exception) -> SkyrlError:
    """What to tell the user: why the checkpoint is not there."""
    path = target(aside)
    reason = reason_of(error, path.parent)
    with suppress(OSError):  # a disk that does not say even that
        reason += f" ({shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB are free there)"
    return SkyrlError(
        f"cannot write checkpoint {path}: {reason}; earlier checkpoints are untouched. Make room or permit writing "
        "there, then --resume"
    )


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}{ending}")


def reason_of(error: Exception, folder: Path) -> str:
    """Why something could not be written below the folder, in a few words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    try:  # torch says only that it could not write: the system says why
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE))
    except OSError as cause:
        return cause.strerror or str(cause)
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _put_in_place(aside: Path, target: Path) -> None:
    replaced = _hidden(target, REPLACED)
    if target.exists():
        target.rename(replaced)  # `recover` gives it back, should the run be killed here
    aside.rename(target)
    flush_to_disk(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below the folder, oldest first. All were complete once; ``read`` says whether one still is."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _is_checkpoint(path)), key=_step)


def find(path: Path) -> Path:
    """The checkpoint that a user means: the folder itself, or the latest one of a run folder.

    Raises:
        SkyrlError: there is none.
    """
    return candidates(path)[0]


def candidates(path: Path) -> list[Path]:
    """The checkpoint that a user means, and those that were written before it, latest first.

    Raises:
        SkyrlError: there is none.
    """
    if _is_checkpoint(path):
        earlier = [other for other in checkpoints(path.parent) if _step(other) < _step(path)]
        return [path, *reversed(earlier)]
    if (path / MANIFEST).is_file():  # under another name
        return [path]
    for folder in (path / "checkpoints", path):
        found = checkpoints(folder)
        if found:
            return found[::-1]
    if (path / "run.json").is_file():
        raise SkyrlError(
            f"the run in {path} ended before its first checkpoint, so there is nothing to go on from: remove the "
            "folder and begin again; checkpoint.every saves more often"
        )
    raise SkyrlError(f"no complete checkpoint in {path}: give a run folder, or a folder step_N below its checkpoints/")


def recover(folder: Path) -> None:
    """Give back a checkpoint whose successor did not come to take its place.

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
    """Remove what a killed run has left half written or half removed. Only the owner of the run folder may.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    recover(folder)
    hidden = [f".step_*{ending}" for ending in (PARTIAL, REPLACED, REMOVED, CONVERTED)]
    for pattern in (*hidden, f"step_*/.*{PARTIAL}"):  # the last: a model that was being exported
        for left in folder.glob(pattern):
            try:
                shutil.rmtree(left)
            except OSError as error:
                raise _not_removed(left, error) from error
    for left in folder.glob(f".{LATEST}.*"):
        try:
            left.unlink()
        except OSError as error:
            raise _not_removed(left, error) from error


def _not_removed(left: Path, error: OSError) -> SkyrlError:
    return SkyrlError(f"cannot remove {left}, the rest of a save: {error.strerror or error}")


def finish(folder: Path, step: int, keep: int) -> None:
    """What a run that was killed right after its checkpoint could not do: name the newest, remove the oldest.

    Args:
        folder: ``checkpoints`` of the run folder.
        step: of the checkpoint that the run goes on from; later ones, of the part that is abandoned by that, are hidden
            now, so that nobody goes on from them, and removed at the next save.
        keep: how many stay up to this step.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    for path in checkpoints(folder):
        if _step(path) > step:
            _hide(path)
    there = checkpoints(folder)
    if there:
        write_bytes(folder / LATEST, f"{there[-1].name}\n".encode())
    prune(folder, step, keep)


def prune(folder: Path, step: int, keep: int) -> None:
    """Remove the oldest checkpoints up to this step, beyond ``keep``, 1 or more, and all of later steps.

    Raises:
        SkyrlError: one cannot be removed.
    """
    # Without a manifest it is no use: it neither counts, nor takes the place of one that is older.
    kept = [_step(path) for path in checkpoints(folder) if _step(path) <= step and (path / MANIFEST).is_file()][-keep:]
    for path in checkpoints(folder):
        if (kept and _step(path) < kept[0]) or _step(path) > step:
            hidden = _hide(path)
            try:
                shutil.rmtree(hidden)
            except OSError as error:
                raise _not_kept(path, error) from error


def _hide(checkpoint: Path) -> Path:
    """``clear`` removes it, if nobody else does."""
    hidden = _hidden(checkpoint, REMOVED)
    try:
        checkpoint.rename(hidden)
    except OSError as error:
        raise _not_kept(checkpoint, error) from error
    return hidden


def _not_kept(checkpoint: Path, error: OSError) -> SkyrlError:
    reason = error.strerror or error
    return SkyrlError(f"cannot remove {checkpoint}, which is no longer kept: {reason}; the others are whole")


def _is_checkpoint(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))
