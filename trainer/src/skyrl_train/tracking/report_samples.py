"""The samples of the report, with the verdict that its filter uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrl_train.tracking.rollout_files import read_records, saved_steps

SHOWN_SAMPLES = 200
SOLVED = 1.0
"""A sample with at least this reward is right, if the run has an accuracy."""

LABELS = {"ground_truth": "expected", "finished": "ended in time"}
_IN_THE_SUMMARY = frozenset({"group", "prompt", "reward", "error", "solved"})


@dataclass(frozen=True)
class Sample:
    """One response. The verdict is ``right``, ``wrong`` or ``error``, or empty if the environment has no verdict."""

    step: int
    verdict: str
    prompt: str
    reward: str
    error: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Samples:
    """The samples to show, in the order of steps, latest first, and the number of samples on disk."""

    shown: tuple[Sample, ...]
    total: int

    @property
    def steps(self) -> list[int]:
        """The steps of the samples, latest first."""
        return list(dict.fromkeys(sample.step for sample in self.shown))

    @property
    def counts(self) -> dict[str, int]:
        """How many of the shown samples have each verdict that occurs."""
        counts = dict.fromkeys(("right", "wrong", "error"), 0)
        for sample in self.shown:
            if sample.verdict:
                counts[sample.verdict] += 1
        return {verdict: count for verdict, count in counts.items() if count}


def read_samples(folder: Path, *, has_accuracy: bool) -> Samples:
    """At most SHOWN_SAMPLES samples of the saved steps, the same number from each step, spread evenly over it.

    Args:
        folder: ``rollouts`` in the run folder.
        has_accuracy: whether a full reward means that a sample is right.
    """
    by_step = {step: read_records(folder, step) for step in reversed(saved_steps(folder))}
    limit = max(SHOWN_SAMPLES // max(len(by_step), 1), 1)
    shown = tuple(
        _sample(step, record, has_accuracy) for step, records in by_step.items() for record in _spread(records, limit)
    )
    return Samples(shown[:SHOWN_SAMPLES], sum(map(len, by_step.values())))


def _spread(records: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    if len(records) <= limit:
        return list(records)
    return [records[index * len(records) // limit] for index in range(limit)]


def _sample(step: int, record: Mapping[str, Any], has_accuracy: bool) -> Sample:
    details = tuple(
        (LABELS.get(name, name.replace("_", " ")), _text(value))
        for name, value in record.items()
        if name not in _IN_THE_SUMMARY and value is not None and value != ""
    )
    return Sample(
        step=step,
        verdict=_verdict(record, has_accuracy),
        prompt=str(record.get("prompt") or ""),
        reward=_text(record["reward"]) if record.get("reward") is not None else "",
        error=str(record.get("error") or ""),
        details=details,
    )


def _verdict(record: Mapping[str, Any], has_accuracy: bool) -> str:
    if record.get("error"):
        return "error"
    solved, reward = record.get("solved"), record.get("reward")
    if solved is None and has_accuracy and isinstance(reward, (int, float)):
        solved = reward >= SOLVED
    return "" if solved is None else "right" if solved else "wrong"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
