"""The evaluations of a run: before and after training, and those that failed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skyrl_train.step.evaluation import Evaluation
from skyrl_train.tracking.history import read_history
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import AnswerPair

SHOWN_ANSWERS = 3


class EvaluationLog:
    """The evaluations that the end of a run compares. A resumed run reads the earlier ones from its folder."""

    def __init__(self, run_folder: RunFolder | None, start_step: int) -> None:
        """``run_folder`` is None on ranks that record nothing."""
        self.before = _logged(run_folder, 0)
        self.after: Evaluation | None = None
        self.failures = _earlier_failures(run_folder, start_step)
        """Step and error of each failed evaluation."""
        self._at_start = _logged(run_folder, start_step)

    def restore(self, *, final: bool) -> bool:
        """Whether the record has an evaluation of the step that the run resumes from."""
        if final:
            self.after = self._at_start
        return self._at_start is not None

    def add(self, step: int, evaluation: Evaluation, *, final: bool) -> None:
        """Keep an evaluation after ``step`` steps; a failed one has errors and perhaps no metrics."""
        self.failures += [{"step": step, "error": error} for error in evaluation.errors]
        if evaluation.metrics and step == 0:
            self.before = evaluation
        if evaluation.metrics and final:
            self.after = evaluation

    def answer_pairs(self) -> tuple[AnswerPair, ...]:
        """Some answers before and after training, spread over the held-out problems so that the choice is unbiased."""
        if self.after is None:
            return ()
        known = {answer.problem: answer for answer in self.before.answers} if self.before else {}
        before = [known.get(answer.problem) for answer in self.after.answers]  # None: not measured before
        pairs = [
            AnswerPair(
                question=after.question,
                expected=after.expected,
                before=first.text if first else None,
                before_correct=first.correct if first else None,
                after=after.text,
                after_correct=after.correct,
                before_reward=first.reward if first else None,
                after_reward=after.reward,
            )
            for first, after in zip(before, self.after.answers, strict=True)
        ]
        stride = max(len(pairs) // SHOWN_ANSWERS, 1)
        return tuple(pairs[::stride][:SHOWN_ANSWERS])


def failure_message(folder: Path, step: int, error: str, *, final: bool) -> str:
    """The line for the user about a failed evaluation."""
    when = "after training" if final else f"after step {step}" if step else "before training"
    rest = f"the model is saved; measure it with: skyrl eval {folder}" if final else "training continues"
    return f"the evaluation {when} failed: {error}; {rest}"


def _logged(run_folder: RunFolder | None, step: int) -> Evaluation | None:
    """An evaluation in metrics.jsonl, without its answers."""
    metrics = read_history(run_folder.metrics).evaluations.get(step) if run_folder is not None else None
    if metrics is None:
        return None
    return Evaluation(metrics={name: value for name, value in metrics.items() if value is not None}, answers=[])


def _earlier_failures(run_folder: RunFolder | None, step: int) -> list[Mapping[str, Any]]:
    """The failed evaluations before the step that the run resumes from; the one of this step is repeated."""
    found = run_folder.read_run().get("failed_evaluations") if run_folder is not None else None
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry.get("step"), int) and entry["step"] < step]
