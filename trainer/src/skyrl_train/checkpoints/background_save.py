"""Saves checkpoints while training continues: a step waits for a copy of the state, not for files."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import checkpoint_folder
from skyrl_train.checkpoints.background_export import BackgroundExport
from skyrl_train.checkpoints.manifest import write_manifest
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.record.journal import Journal
from skyrl_train.record.progress import Progress
from skyrl_train.trainer_engine import random_state
from skyrl_train.trainer_engine.snapshot import Snapshot
from skyrl_train.trainer_engine.zero import ZeroEngine

logger = logging.getLogger(__name__)


@dataclass
class _Checkpoint:
    """A checkpoint that is being written, with the state at its start."""

    partial: Path
    progress: Progress
    snapshot: Snapshot  # of this rank
    samples: Future[None]
    abandoned: bool = False  # the run exits without it
    publishing: threading.Lock = field(default_factory=threading.Lock)  # held during publishing and pruning

    def check(self) -> None:
        """Raise if the checkpoint was abandoned: another process may soon own the run folder."""
        if self.abandoned:
            raise SkyrlError(f"{self.partial} was abandoned")


class BackgroundSave:
    """Copies the state between two steps; a thread of each rank writes the copy. One checkpoint at a time.

    As a context manager it waits at the end for the current checkpoint.
    """

    def __init__(
        self, engine: ZeroEngine, ranks: Ranks, journal: Journal, keep: int, export: BackgroundExport | None = None
    ) -> None:
        """Collective.

        Args:
            engine: holds the state of model and optimizer.
            ranks: the processes of the run.
            journal: names the folder, and is notified of each complete checkpoint.
            keep: number of checkpoints to keep, 1 or more.
            export: exports the model of each checkpoint; None exports none.
        """
        self._engine, self._ranks, self._journal = engine, ranks, journal
        self._keep, self._export = keep, export
        self._gather = ranks.gather_in_thread()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skyrl-save")
        self._writing: tuple[_Checkpoint, Future[Path]] | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written, or is written but not announced yet."""
        return self._writing is not None

    def start(self, progress: Progress) -> None:
        """Start a checkpoint of the current state. Returns once the state is copied. Collective.

        Raises:
            SkyrlError: this checkpoint cannot be started, or the previous one failed; the same on all ranks.
        """
        self.wait()
        if self._export is not None:
            self._export.copy()  # waits for the export into a checkpoint that may be pruned
        partial = checkpoint_folder.partial_folder(self._journal.checkpoints, progress.step)
        self._begin(partial)
        checkpoint = _Checkpoint(partial, progress, self._snapshot(partial), self._journal.samples())
        self._writing = checkpoint, self._thread.submit(self._write, checkpoint)

    def poll(self) -> None:
        """Announce the checkpoint if every rank has written it; never waits for a disk. Collective."""
        if self._writing is None:
            return
        _, written = self._writing
        if not int(self._ranks.max(torch.tensor([int(not written.done())]))):
            self.wait()

    def wait(self) -> None:
        """Wait for the current checkpoint and announce it. Call it before a checkpoint is removed.

        Raises:
            SkyrlError: it could not be written; the same on all ranks. Earlier checkpoints are intact.
        """
        if self._writing is None:
            return
        checkpoint, written = self._writing
        try:
            path = written.result()
        finally:
            # Cleared only now: a signal during the wait abandons the checkpoint, or `__exit__` still waits for it.
            self._writing = None
            with checkpoint.publishing:  # a signal must not interrupt publishing
                checkpoint.abandoned = not written.done()
        self._journal.checkpoint(path)
        if self._export is not None:
            self._export.write(path, checkpoint.progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except SkyrlError as problem:
            if error is None:
                raise
            # The error that ended the run comes first; this one must not replace it.
            logger.warning("the last checkpoint could not be written: %s", problem)
        finally:
            self._thread.shutdown(wait=False)

    def _begin(self, partial: Path) -> None:
        problem = _error_of(lambda: checkpoint_folder.begin(partial), partial) if self._ranks.is_main else None
        problem = self._ranks.broadcast(problem)
        if problem is not None:
            raise SkyrlError(problem)

    def _snapshot(self, partial: Path) -> Snapshot:
        try:
            snapshot = self._engine.snapshot(partial)
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if memory for the copy is missing
            # The other ranks wait inside DeepSpeed, and are notified when this one exits.
            if self._ranks.is_main:
                checkpoint_folder.discard(partial)
            raise checkpoint_folder.save_error(partial, error) from error
        random_state.add(snapshot, partial, self._ranks.rank)
        return snapshot

    def _write(self, checkpoint: _Checkpoint) -> Path:
        """Write this rank's files, in a thread. The result or error is the same on all ranks."""
        partial, main = checkpoint.partial, self._ranks.is_main
        problem = _error_of(lambda: checkpoint.snapshot.write(checkpoint.check), partial)
        # Also on failure: the other ranks wait for this rank's result.
        problem = next((found for found in self._gather(problem) if found is not None), None)
        if main and problem is None:
            problem = _error_of(lambda: self._complete(checkpoint), partial)
        if main and problem is not None and not checkpoint.abandoned:
            checkpoint_folder.discard(partial)  # no rank writes into it any more
        problem = self._gather(problem)[0]
        if problem is not None:
            raise SkyrlError(problem)
        return checkpoint_folder.target(partial)

    def _complete(self, checkpoint: _Checkpoint) -> None:
        # A checkpoint appears after the record of its steps. Samples that could not be written end the run elsewhere.
        checkpoint.samples.exception()
        self._journal.sync()
        write_manifest(checkpoint.partial, checkpoint.progress, self._journal.provenance())
        with checkpoint.publishing:
            checkpoint.check()
            path = checkpoint_folder.publish(checkpoint.partial)
            self._journal.last_checkpoint = path  # in case the process exits before `wait`
            checkpoint_folder.prune(path.parent, checkpoint.progress.step, self._keep)


def _error_of(work: Callable[[], None], partial: Path) -> str | None:
    """Do the work; its error message for the user, or None."""
    try:
        work()
    except SkyrlError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # any error must reach the other ranks
        return str(checkpoint_folder.save_error(partial, error))
    return None
