"""Everything that a run tells the outside: trackers, run folder, observers. Silent on every rank but the first."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from skyrl_core.errors import SkyrlError
from skyrl_train.observers.observers import Observers
from skyrl_train.step.evaluation import Answer, Evaluation
from skyrl_train.step.rollout import Rollout
from skyrl_train.tracking.background_writer import BackgroundWriter
from skyrl_train.tracking.history import read_history
from skyrl_train.tracking.html_report import write_report
from skyrl_train.tracking.rollout_files import save_rollouts
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import AnswerPair, Outcome, RunSummary, Tracker

SHOWN_ANSWERS = 3
PROVENANCE = (
    "packages",
    "origins",
    "python",
    "platform",
    "git",
    "command",
    "working_folder",
    "model",
    "seeds",
    "started",
    "resumed",
)
"""What of run.json a checkpoint says, too, so that a copy of it alone can be traced."""

logger = logging.getLogger(__name__)


class Journal:
    """Writes down what happens. The ranks that stay silent have one without outlets."""

    def __init__(
        self,
        folder: Path,
        *,
        run_folder: RunFolder | None = None,
        tracker: Tracker | None = None,
        observers: Observers | None = None,
        keep_rollouts: int = 0,
        start_step: int = 0,
        resume_command: str | None = None,
    ) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.last_checkpoint: Path | None = None
        self.accepts_loss_change = False  # until a checkpoint is of the loss of now
        self._run_folder = run_folder
        self._tracker = tracker
        self._observers = observers
        self._keep_rollouts = keep_rollouts
        self._steps = start_step
        self._resume_command = resume_command
        self._started = time.monotonic()
        self._before = _recalled(run_folder, 0) if run_folder is not None else None
        self._after: Evaluation | None = None
        self._ended = False
        self._writer = BackgroundWriter()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one training step."""
        self._steps = step
        if self._tracker is not None:
            self._tracker.log_step(step, metrics)
        if self._observers is not None:
            self._observers.step_end(step, metrics)

    def evaluation(self, step: int, evaluation: Evaluation, *, final: bool) -> None:
        """An evaluation after ``step`` steps."""
        if step == 0:
            self._before = evaluation
        if final:
            self._after = evaluation
        if self._tracker is not None:
            self._tracker.log_evaluation(step, evaluation.metrics, final)

    def recall_end(self) -> None:
        """The run was killed after its last step: what its final evaluation measured is in metrics.jsonl."""
        if self._run_folder is not None:
            self._after = _recalled(self._run_folder, self._steps)

    def rollout(self, step: int, rollout: Rollout) -> None:
        """The samples of a step, as tensors and as text; a thread writes them. What failed to be written is raised at
        the next of them, or by ``settle``.
        """
        keep = self._keep_rollouts
        if self._run_folder is None or keep == 0:
            return
        experience = rollout.experience
        named = {
            "input_ids": experience.input_ids,
            "lengths": experience.lengths,
            "response_start": experience.response_start,
            "mask": experience.mask,
            "advantages": experience.advantages,
            "rewards": experience.rewards,
            "groups": experience.groups,
            "rollout_log_probs": experience.rollout_log_probs,
            "old_log_probs": experience.old_log_probs,
            "ref_log_probs": experience.ref_log_probs,
        }
        arrays = {n: np.ascontiguousarray(t.detach().cpu().numpy()) for n, t in named.items() if t is not None}
        first = experience.advantages[:, 0].tolist() if experience.advantages.numel() else [0.0] * len(experience)
        records = [record | {"advantage": a} for record, a in zip(rollout.records, first, strict=True)]
        self._writer.start(partial(save_rollouts, self._run_folder.rollouts, step, arrays, records, keep=keep))

    def settle(self) -> None:
        """Wait until all samples are on disk.

        Raises:
            RunFolderError: they could not be written.
        """
        self._writer.wait()

    def samples(self) -> Future[None]:
        """Done once all samples so far are on disk, for a thread that must come after them."""
        return self._writer.latest()

    def provenance(self) -> dict[str, Any]:
        """What the run is made of, as run.json says it; empty where this rank writes none."""
        run = self._run_folder.read_run() if self._run_folder is not None else {}
        return {name: run.get(name) for name in PROVENANCE if name in run}

    def checkpoint(self, path: Path) -> None:
        """A checkpoint is complete."""
        self.last_checkpoint, self.accepts_loss_change = path, False
        if self._observers is not None:
            self._observers.checkpoint_saved(path)

    def message(self, text: str) -> None:
        """One line for people."""
        if self._tracker is not None:
            self._tracker.message(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """The end of the run, however it ends: run.json, the report, the tables that compare before and after."""
        try:
            unwritten = self._unwritten()
            if self._run_folder is not None and self._tracker is not None and self._observers is not None:
                self._finish(self._run_folder, self._tracker, self._observers, error or unwritten)
            if unwritten is not None:
                raise unwritten
        except SkyrlError as problem:
            if error is None:
                raise
            # What ended the run is what its user has to hear of first.
            logger.warning("the end of the run could not be written down: %s", problem)
        except KeyboardInterrupt:  # whoever insists need not wait for the disk, but has to find how the run ended
            self.abandon("interrupted", None)
            raise
        finally:
            self._writer.close()
            if self._tracker is not None:
                self._tracker.close()
            if self._run_folder is not None:
                self._run_folder.close()

    def _unwritten(self) -> SkyrlError | None:
        """Why the last samples are not on disk."""
        try:
            self.settle()
        except SkyrlError as error:
            return error
        return None

    def _finish(
        self, run_folder: RunFolder, tracker: Tracker, observers: Observers, error: BaseException | None
    ) -> None:
        outcome: Outcome = "finished"
        if error is not None:
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = f"{type(error).__name__}: {error}" if outcome == "failed" else None
        if reason is not None:
            observers.error(reason)
        summary = self._summary(outcome, reason)
        run_folder.end_run(summary)
        self._ended = True
        try:
            write_report(self.folder)
        except SkyrlError:
            raise
        except Exception as problem:  # noqa: BLE001 - a picture must not cost the end of a run
            logger.warning("report.html could not be written: %s: %s", type(problem).__name__, problem)
        observers.train_end(outcome)
        tracker.finish(summary)

    def abandon(self, outcome: Outcome, reason: str | None) -> None:
        """Write only how the run has ended: this process is about to be ended, whatever its main thread is doing."""
        if self._run_folder is not None and not self._ended:
            self._run_folder.end_run(self._summary(outcome, reason))

    def resume_hint(self) -> str:
        """The end of a sentence about an interruption."""
        done = f" after step {self._steps}"
        if self.last_checkpoint is None:
            return f"{done}; no checkpoint was saved, so there is nothing to go on from"
        return f"{done}; to go on from {self.last_checkpoint}:\n  {self._command}"

    @property
    def _command(self) -> str | None:
        return f"{self._resume_command} --accept-loss-change" if self.accepts_loss_change else self._resume_command

    def _summary(self, outcome: Outcome, reason: str | None) -> RunSummary:
        resumable = outcome != "finished" and self.last_checkpoint is not None
        return RunSummary(
            run_folder=self.folder,
            steps=self._steps,
            seconds=time.monotonic() - self._started,
            before=self._before.metrics if self._before else None,
            after=self._after.metrics if self._after else None,
            answers=self._answer_pairs(),
            checkpoint=self.last_checkpoint,
            resume_command=self._command if resumable else None,
            outcome=outcome,
            error=reason,
        )

    def _answer_pairs(self) -> tuple[AnswerPair, ...]:
        if self._after is None:
            return ()
        known: list[Answer] = self._before.answers if self._before else []
        before: Sequence[Answer | None] = known or [None] * len(self._after.answers)
        pairs = [
            AnswerPair(
                question=after.question,
                expected=after.expected,
                before=first.text if first else None,
                before_correct=first.correct if first else None,
                after=after.text,
                after_correct=after.correct,
            )
            for first, after in zip(before, self._after.answers, strict=True)
        ]
        # Spread over the held-out set, so that the choice flatters nobody.
        stride = max(len(pairs) // SHOWN_ANSWERS, 1)
        return tuple(pairs[::stride][:SHOWN_ANSWERS])


def _recalled(run_folder: RunFolder, step: int) -> Evaluation | None:
    """An earlier evaluation of a run that is resumed; its answers are gone."""
    metrics = read_history(run_folder.metrics).evaluations.get(step)
    if metrics is None:
        return None
    return Evaluation(metrics={name: value for name, value in metrics.items() if value is not None}, answers=[])
