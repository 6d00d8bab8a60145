"""Records a run in its run folder, trackers and observers. Does nothing on ranks other than 0."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from skyrl_core.discovery import complete_traceback
from skyrl_core.errors import SkyrlError
from skyrl_train.observers.observers import Observers
from skyrl_train.ranks.resume_command import accepting
from skyrl_train.record.evaluation_log import EvaluationLog, failure_message
from skyrl_train.step.evaluation import Evaluation
from skyrl_train.step.rollout import Rollout
from skyrl_train.tracking.background_writer import BackgroundWriter
from skyrl_train.tracking.html_report import write_report
from skyrl_train.tracking.rollout_files import save_rollouts
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import Outcome, RunSummary, Tracker

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
"""Entries of run.json that each checkpoint repeats, so that a copied checkpoint can be traced."""

logger = logging.getLogger(__name__)


class Journal:
    """Records a run. On ranks other than 0 it has no run folder, tracker and observers."""

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
        self.accepts: str | None = None  # the option to resume with until a checkpoint holds the accepted change
        self._run_folder = run_folder
        self._tracker = tracker
        self._observers = observers
        self._keep_rollouts = keep_rollouts
        self._steps = start_step
        self._resume_command = resume_command
        self._started = time.monotonic()
        self._evaluations = EvaluationLog(run_folder, start_step)
        self._ended = False
        self._writer = BackgroundWriter()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one training step."""
        self._steps = step
        if self._run_folder is not None:
            self._run_folder.record.log_step(step, metrics)
        if self._tracker is not None:
            self._tracker.log_step(step, metrics)
        if self._observers is not None:
            self._observers.step_end(step, metrics)

    def evaluation(self, step: int, evaluation: Evaluation, *, final: bool) -> None:
        """Record an evaluation after ``step`` steps. One that failed is a message, and a gap in the curve."""
        self._evaluations.add(step, evaluation, final=final)
        for error in evaluation.errors:
            self.message(failure_message(self.folder, step, error, final=final))
        if not evaluation.metrics:
            return
        if self._run_folder is not None:
            self._run_folder.record.log_evaluation(step, evaluation.metrics, final)
        if self._tracker is not None:
            self._tracker.log_evaluation(step, evaluation.metrics, final)

    def restore_evaluation(self, *, final: bool) -> bool:
        """Whether metrics.jsonl has an evaluation of the step that the run resumes from; the final one is read."""
        return self._evaluations.restore(final=final)

    def rollout(self, step: int, rollout: Rollout) -> None:
        """Save the samples of a step in a thread; the next call, or ``wait_for_samples``, raises its error."""
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
            **{f"rewards/{name}": values for name, values in experience.reward_parts.items()},
            "groups": experience.groups,
            "rollout_log_probs": experience.rollout_log_probs,
            "old_log_probs": experience.old_log_probs,
            "ref_log_probs": experience.ref_log_probs,
        }
        arrays = {n: np.ascontiguousarray(t.detach().cpu().numpy()) for n, t in named.items() if t is not None}
        arrays["samples"] = np.array(rollout.judged, dtype=np.int64)  # the line of each in the .jsonl file
        first = experience.advantages[:, 0].tolist() if experience.advantages.numel() else [0.0] * len(experience)
        advantages = dict(zip(rollout.judged, first, strict=True))
        records = [record | {"advantage": advantages.get(n)} for n, record in enumerate(rollout.records)]
        self._writer.start(partial(save_rollouts, self._run_folder.rollouts, step, arrays, records, keep=keep))

    def wait_for_samples(self) -> None:
        """Wait until all samples are on disk.

        Raises:
            RunFolderError: they could not be written.
        """
        self._writer.wait()

    def samples(self) -> Future[None]:
        """A future that completes once all samples so far are on disk."""
        return self._writer.latest()

    def sync(self) -> None:
        """Wait until metrics.jsonl is on disk, from any thread.

        Raises:
            RunFolderError: it could not be written.
        """
        if self._run_folder is not None:
            self._run_folder.record.sync()

    def provenance(self) -> dict[str, Any]:
        """The run's packages, seeds, command, ... as in run.json; empty on ranks that write none."""
        run = self._run_folder.read_run() if self._run_folder is not None else {}
        return {name: run.get(name) for name in PROVENANCE if name in run}

    def checkpoint(self, path: Path) -> None:
        """Record a checkpoint that is complete."""
        self.last_checkpoint, self.accepts = path, None
        if self._observers is not None:
            self._observers.checkpoint_saved(path)

    def message(self, text: str) -> None:
        """Print one line for the user."""
        if self._tracker is not None:
            self._tracker.message(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Write run.json, the report and the tables that compare before and after, however the run ends."""
        try:
            unwritten = self._unwritten()
            if self._run_folder is not None and self._tracker is not None and self._observers is not None:
                self._finish(self._run_folder, self._tracker, self._observers, error or unwritten)
            if unwritten is not None:
                raise unwritten
        except SkyrlError as problem:
            if error is None:
                raise
            # The error that ended the run comes first; this one must not replace it.
            logger.warning("the end of the run could not be recorded: %s", problem)
        except KeyboardInterrupt:  # a second signal: do not wait for the disk, only record how the run ended
            self.abandon("interrupted", None)
            raise
        finally:
            self._writer.close()
            if self._tracker is not None:
                self._tracker.close()
            if self._run_folder is not None:
                self._run_folder.close()

    def _unwritten(self) -> SkyrlError | None:
        """The error that kept the last samples from being written."""
        try:
            self.wait_for_samples()
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
        if error is not None and reason is not None:
            _save_traceback(run_folder, error)
            observers.error(reason)
        summary = self._summary(outcome, reason)
        run_folder.end_run(summary)
        self._ended = True
        # The run is recorded: what follows may fail for outside reasons, and must not turn it into a failed run.
        _attempt("report.html could not be written", lambda: write_report(self.folder))
        _attempt("an observer did not receive the end of the run", lambda: observers.train_end(outcome))
        _attempt("a tracker did not receive the end of the run", lambda: tracker.finish(summary))

    def abandon(self, outcome: Outcome, reason: str | None) -> None:
        """Record only how the run ended: the process is about to exit, whatever its main thread is doing."""
        if self._run_folder is not None and not self._ended:
            self._run_folder.end_run(self._summary(outcome, reason))

    def resume_hint(self) -> str:
        """The end of the message about an interruption."""
        done = f" after step {self._steps}"
        if self.last_checkpoint is None:
            return f"{done}; no checkpoint was saved, so this run cannot be resumed"
        return f"{done}; to resume from {self.last_checkpoint}:\n  {self._command}"

    @property
    def _command(self) -> str | None:
        command = self._resume_command
        return accepting(command, self.accepts) if command and self.accepts else command

    def _summary(self, outcome: Outcome, reason: str | None) -> RunSummary:
        evaluations = self._evaluations
        resumable = outcome != "finished" and self.last_checkpoint is not None
        return RunSummary(
            run_folder=self.folder,
            steps=self._steps,
            seconds=time.monotonic() - self._started,
            before=evaluations.before.metrics if evaluations.before else None,
            after=evaluations.after.metrics if evaluations.after else None,
            answers=evaluations.answer_pairs(),
            failed_evaluations=tuple(evaluations.failures),
            checkpoint=self.last_checkpoint,
            resume_command=self._command if resumable else None,
            outcome=outcome,
            error=reason,
        )


def _save_traceback(run_folder: RunFolder, error: BaseException) -> None:
    try:
        path = run_folder.write_traceback(complete_traceback(error))
    except SkyrlError as problem:  # it must not hide the error itself
        logger.warning("the traceback could not be saved: %s", problem)
    else:
        error.add_note(f"complete traceback: {path}")


def _attempt(failure: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as problem:  # noqa: BLE001 - any error of a tracker or the report, after the run is recorded
        reason = str(problem) if isinstance(problem, SkyrlError) else f"{type(problem).__name__}: {problem}"
        logger.warning("%s: %s", failure, reason)
