"""Writes checkpoints while training goes on: a step waits for a copy of the state in memory, not for its files."""

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
    """What is being written, as it was when it was begun."""

    aside: Path
    progress: Progress
    snapshot: Snapshot  # of this rank
    samples: Future[None]
    abandoned: bool = False  # the run has left without it
    publishing: threading.Lock = field(default_factory=threading.Lock)  # held while it appears and others go

    def check(self) -> None:
        """Raise where nobody waits any more: the run folder may soon be another process's."""
        if self.abandoned:
            raise SkyrlError(f"{self.aside} was abandoned")


class BackgroundSave:
    """Copies the state between two steps; a thread of each rank writes the copy. One checkpoint at a time.

    As a context manager it waits, at the end, for what is being written.
    """

    def __init__(
        self, engine: ZeroEngine, ranks: Ranks, journal: Journal, keep: int, export: BackgroundExport | None = None
    ) -> None:
        """Collective.

        Args:
            engine: has the state of model and optimizer.
            ranks: the processes of the run.
            journal: knows the folder, and is told of each checkpoint that is complete.
            keep: how many stay, 1 or more.
            export: of the model of each, if asked for.
        """
        self._engine, self._ranks, self._journal = engine, ranks, journal
        self._keep, self._export = keep, export
        self._gather = ranks.gather_in_thread()  # of the threads
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skyrl-save")
        self._writing: tuple[_Checkpoint, Future[Path]] | None = None

    @property
    def is_writing(self) -> bool:
        """Whether there is a checkpoint that `wait` waits for."""
        return self._writing is not None

    def start(self, progress: Progress) -> None:
        """Begin a checkpoint of now. It returns once the state is copied. Collective.

        Raises:
            SkyrlError: this one cannot be begun, or the one before it could not be written; the same on all ranks.
        """
        self.wait()
        if self._export is not None:
            self._export.copy()  # when it has written into a checkpoint that may have to go
        aside = checkpoint_folder.aside(self._journal.checkpoints, progress.step)
        self._begin(aside)
        checkpoint = _Checkpoint(aside, progress, self._snapshot(aside), self._journal.samples())
        self._writing = checkpoint, self._thread.submit(self._write, checkpoint)

    def settle(self) -> None:
        """Between two steps: what `wait` does, if no rank has to wait. Collective."""
        if self._writing is None:
            return
        _, written = self._writing
        if not int(self._ranks.max(torch.tensor([int(not written.done())]))):
            self.wait()

    def wait(self) -> None:
        """Until no checkpoint is being written; then it is said that there is one. Before anything removes one.

        Raises:
            SkyrlError: it could not be written; the same on all ranks. Earlier ones are whole.
        """
        if self._writing is None:
            return
        checkpoint, written = self._writing
        try:
            path = written.result()
        finally:
            # Not before: what a signal keeps from being waited for is abandoned, or still known to `__exit__`.
            self._writing = None
            with checkpoint.publishing:  # a signal may not leave it half visible
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
            # What ended the run is what its user has to hear of first.
            logger.warning("the last checkpoint could not be written: %s", problem)
        finally:
            self._thread.shutdown(wait=False)

    def _begin(self, aside: Path) -> None:
        problem = _problem_of(lambda: checkpoint_folder.begin(aside), aside) if self._ranks.is_main else None
        problem = self._ranks.broadcast(problem)
        if problem is not None:
            raise SkyrlError(problem)

    def _snapshot(self, aside: Path) -> Snapshot:
        try:
            snapshot = self._engine.snapshot(aside)
        except (OSError, RuntimeError) as error:  # torch says with the latter that there is no memory for the copy
            # The other ranks wait inside DeepSpeed, and learn of it when this one leaves.
            if self._ranks.is_main:
                checkpoint_folder.give_up(aside)
            raise checkpoint_folder.not_written(aside, error) from error
        random_state.add(snapshot, aside, self._ranks.rank)
        return snapshot

    def _write(self, checkpoint: _Checkpoint) -> Path:
        """In the thread of each rank. How it went is the same on all of them."""
        aside, main = checkpoint.aside, self._ranks.is_main
        problem = _problem_of(lambda: checkpoint.snapshot.write(checkpoint.check), aside)
        # A rank that fails must not be waited for in vain.
        problem = next((found for found in self._gather(problem) if found is not None), None)
        if main and problem is None:
            problem = _problem_of(lambda: self._complete(checkpoint), aside)
        if main and problem is not None and not checkpoint.abandoned:
            checkpoint_folder.give_up(aside)  # the threads of all ranks are through with it
        problem = self._gather(problem)[0]
        if problem is not None:
            raise SkyrlError(problem)
        return checkpoint_folder.target(aside)

    def _complete(self, checkpoint: _Checkpoint) -> None:
        checkpoint.samples.result()  # a checkpoint comes after the samples of its steps
        write_manifest(checkpoint.aside, checkpoint.progress, self._journal.provenance())
        with checkpoint.publishing:
            checkpoint.check()
            path = checkpoint_folder.publish(checkpoint.aside)
            self._journal.last_checkpoint = path  # should this process be ended before `wait`
            checkpoint_folder.prune(path.parent, checkpoint.progress.step, self._keep)


def _problem_of(work: Callable[[], None], aside: Path) -> str | None:
    """What has kept the work from being done, for people."""
    try:
        work()
    except SkyrlError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other ranks must hear of it
        return str(checkpoint_folder.not_written(aside, error))
    return None
