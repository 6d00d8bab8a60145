"""The checkpoints of a run: each is complete or invisible, and the latest K are kept.

A checkpoint is written into a hidden folder, hashed, flushed to disk and renamed to ``step_N``. One that goes is hidden
by a rename before its files are removed. So a folder ``step_N`` was complete once, whenever a run is killed. The file
``latest`` names the newest one, for scripts; the trainer itself looks at the folders.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_train.tracking.atomic_file import write_bytes
from skyrl_train.training import random_state
from skyrl_train.training.checkpoint import MANIFEST, Progress, flush_to_disk, write_manifest
from skyrl_train.training.ranks import Ranks
from skyrl_train.training.zero import ZeroEngine

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


def save(
    folder: Path,
    engine: ZeroEngine,
    progress: Progress,
    ranks: Ranks,
    *,
    keep: int,
    provenance: Mapping[str, Any],
) -> Path:
    """Write ``step_N`` below the folder and remove the oldest beyond ``keep``. All ranks call it together.

    Args:
        folder: ``checkpoints`` of the run folder, on a disk that all ranks share.
        engine: has the state of model and optimizer.
        progress: where the run stands.
        ranks: the processes of the run.
        keep: how many stay, 1 or more.
        provenance: what the run is made of, for the manifest.

    Raises:
        SkyrlError: the folder cannot be written; earlier checkpoints stay as they are.
    """
    target = folder / f"step_{progress.step:06d}"
    aside = _hidden(target, PARTIAL)
    problem = None
    if ranks.is_main:
        try:
            clear(folder)
            _make(aside)
        except SkyrlError as error:
            problem = str(error)
        except OSError as error:
            problem = _problem(target, error)
    _agree(ranks, problem)
    try:
        engine.save(aside)
        random_state.save(aside, ranks.rank)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        problem = _problem(target, error)
        if ranks.is_main:
            shutil.rmtree(aside, ignore_errors=True)  # makes room for what the run still has to say
        # Not through _agree: the other ranks wait inside DeepSpeed, and learn of it when this one leaves.
        raise SkyrlError(problem) from error
    _agree(ranks, None)  # now the files of all ranks are there
    if ranks.is_main:
        problem = _complete(aside, target, progress, provenance) or _prune(folder, progress.step, keep, later=True)
    _agree(ranks, problem)
    return target


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}{ending}")


def _make(aside: Path) -> None:
    new = not aside.parent.exists()
    aside.mkdir(parents=True)
    if new:
        flush_to_disk(aside.parent.parent)


def _problem(target: Path, error: OSError | RuntimeError) -> str:
    reason = reason_of(error, target.parent)
    with suppress(OSError):  # a disk that does not say even that
        reason += f" ({shutil.disk_usage(target.parent).free / 2**20:,.1f} MiB are free there)"
    return (
        f"cannot write checkpoint {target}: {reason}; earlier checkpoints are untouched. Make room or permit writing "
        "there, then --resume"
    )


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


def _agree(ranks: Ranks, problem: str | None) -> None:
    """Raise on every rank when one of them has a problem, so that none waits for the others in vain."""
    problems = [found for found in ranks.gather(problem) if found]
    if problems:
        raise SkyrlError(problems[0])


def _complete(aside: Path, target: Path, progress: Progress, provenance: Mapping[str, Any]) -> str | None:
    try:
        write_manifest(aside, progress, provenance)
        _put_in_place(aside, target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        return _problem(target, error)
    try:
        write_bytes(target.with_name(LATEST), f"{target.name}\n".encode())
    except SkyrlError as error:
        return str(error)
    return None


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
        folder: as for ``save``.
        step: of the checkpoint that the run goes on from; later ones stay until the next save.
        keep: how many stay up to this step.

    Raises:
        SkyrlError: the folder cannot be written.
    """
    there = checkpoints(folder)
    if there:
        write_bytes(folder / LATEST, f"{there[-1].name}\n".encode())
    problem = _prune(folder, step, keep, later=False)
    if problem is not None:
        raise SkyrlError(problem)


def _prune(folder: Path, step: int, keep: int, *, later: bool) -> str | None:
    """``later``: also those of later steps, from a part of the run that was abandoned by resuming before them."""
    # Without a manifest it is no use: it neither counts, nor takes the place of one that is older.
    kept = [_step(path) for path in checkpoints(folder) if _step(path) <= step and (path / MANIFEST).is_file()][-keep:]
    for path in checkpoints(folder):
        if (kept and _step(path) < kept[0]) or (later and _step(path) > step):
            try:
                removed = _hidden(path, REMOVED)
                path.rename(removed)
                shutil.rmtree(removed)
            except OSError as error:
                return f"cannot remove {path}, which is no longer kept: {error.strerror or error}; the others are whole"
    return None


def _is_checkpoint(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))
