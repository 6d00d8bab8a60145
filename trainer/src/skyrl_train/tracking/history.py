"""The content of metrics.jsonl as series over steps. The run may be in progress or killed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Metrics = dict[str, float | None]
_OWN_KEYS = frozenset({"step", "kind", "time", "final"})


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
                if name not in _OWN_KEYS and (value is None or isinstance(value, (int, float)))
            }
    return history


def _entries(lines: Any) -> Iterator[dict[str, Any] | None]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        known = isinstance(entry, dict) and isinstance(entry.get("step"), int) and "kind" in entry
        yield entry if known else None
