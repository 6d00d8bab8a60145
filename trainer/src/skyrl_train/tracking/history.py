"""The content of metrics.jsonl as series over steps. The run may be in progress or killed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyrl_core.discovery import shortened

Metrics = dict[str, float | None]
OWN_KEYS = frozenset({"step", "kind", "time", "final"})
"""Keys of a line that are no metrics."""
_KINDS = ("train", "evaluation")


@dataclass
class History:
    """Metrics of each step. If a step was logged twice, the last line counts."""

    train: dict[int, Metrics] = field(default_factory=dict)
    evaluations: dict[int, Metrics] = field(default_factory=dict)
    unreadable_lines: int = 0

    @property
    def last_step(self) -> int:
        return max(self.train, default=0)

    @property
    def before(self) -> Metrics | None:
        """The evaluation before the first step, or None."""
        return self.evaluations.get(0)

    @property
    def after(self) -> tuple[int, Metrics] | None:
        """The step and the metrics of the latest evaluation after training began, or None."""
        step = max(self.evaluations, default=0)
        return (step, self.evaluations[step]) if step else None


def read_history(path: Path) -> History:
    """Read metrics.jsonl. A missing file is an empty history; incomplete or unknown lines are counted and skipped."""
    history = History()
    if not path.exists():
        return history
    with path.open("rb") as lines:
        for entry in _entries(lines):
            if entry is None:
                history.unreadable_lines += 1
                continue
            series = history.evaluations if entry["kind"] == "evaluation" else history.train
            series[entry["step"]] = {
                name: value
                for name, value in entry.items()
                if name not in OWN_KEYS and (value is None or isinstance(value, (int, float)))
            }
    return history


def _entries(lines: Any) -> Iterator[dict[str, Any] | None]:
    for line in lines:
        try:
            yield parse_entry(line)
        except ValueError:
            yield None


def parse_entry(line: bytes) -> dict[str, Any]:
    """One line of metrics.jsonl.

    Raises:
        ValueError: it is incomplete, or no line of metrics.
    """
    try:
        entry = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError(f"{type(entry).__name__} instead of an object")
    step = entry.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"step is {shortened(repr(step), 20)}")
    if entry.get("kind") not in _KINDS:
        raise ValueError(f"kind is {shortened(repr(entry.get('kind')), 20)}")
    return entry
