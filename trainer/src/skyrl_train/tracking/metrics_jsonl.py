"""metrics.jsonl, the record of a run that everything else is a mirror of: one JSON object per line."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

from skyrl_train.tracking.atomic_file import write_error, written_aside
from skyrl_train.tracking.strict_json import encode
from skyrl_train.tracking.tracker import RunInfo, RunSummary, TrackerError

METRICS_FILE = "metrics.jsonl"
_OWN_KEYS = frozenset({"step", "kind", "time", "final"})


class Jsonl:
    """Appends ``{"step": 3, "kind": "train", "time": ..., "reward/mean": 0.5, ...}``; NaN and infinities are null.

    On resume the lines after the resumed step are cut off before the first new one: a run that cannot go on after all
    has lost none. Failing to write ends the run.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._cut_after: int | None = None  # a step, while later ones may still be there

    def start(self, info: RunInfo) -> None:
        """Open the file for appending.

        Raises:
            RunFolderError: it cannot be written.
        """
        self._path = info.run_folder / METRICS_FILE
        self._cut_after = info.start_step if self._path.exists() else None
        self._file = _opened(self._path)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append({"step": step, "kind": "train"}, metrics)

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        self._append({"step": step, "kind": "evaluation", "final": final}, metrics)

    def message(self, text: str) -> None:
        """Messages are for people; the file holds numbers."""

    def finish(self, summary: RunSummary) -> None:
        """Nothing is left to write: every line is on its way to disk already."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, head: Mapping[str, int | str | bool], metrics: Mapping[str, float]) -> None:
        if self._file is None or self._path is None:
            raise RuntimeError("metrics.jsonl is not open: call start first")
        if reserved := sorted(_OWN_KEYS & metrics.keys()):
            raise TrackerError(f"metrics cannot be named {', '.join(reserved)}: metrics.jsonl uses these keys itself")
        if self._cut_after is not None:
            self._file.close()
            _cut(self._path, self._cut_after)
            self._file, self._cut_after = _opened(self._path), None
        line = encode({**head, "time": round(time.time(), 3), **metrics}) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise write_error(self._path, error) from error


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        raise write_error(path, error) from error


def _cut(path: Path, step: int) -> None:
    with written_aside(path) as aside, path.open("rb") as lines, aside.open("wb") as kept:
        for line in lines:
            if _step_of(line) <= step:
                kept.write(line.rstrip(b"\n") + b"\n")  # a full disk may have taken the last one's end alone


def _step_of(line: bytes) -> float:
    # The last line of a killed run may be torn; it goes.
    try:
        entry = json.loads(line)
    except ValueError:
        return float("inf")
    found: int | Literal[False] = isinstance(entry, dict) and entry.get("step", False)
    return float("inf") if found is False else found
