"""metrics.jsonl, the primary record of a run: one JSON object per line. Other trackers mirror it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

from skyrl_train.tracking.atomic_file import atomic_write, write_error
from skyrl_train.tracking.strict_json import encode
from skyrl_train.tracking.tracker import RunInfo, RunSummary, TrackerError

METRICS_FILE = "metrics.jsonl"
_OWN_KEYS = frozenset({"step", "kind", "time", "final"})


class Jsonl:
    """Appends ``{"step": 3, "kind": "train", "time": ..., "reward/mean": 0.5, ...}``; NaN and infinity become null.

    A resumed run removes the lines after the step that it resumes from only when it writes a new line, so a resume
    that fails loses nothing. A write error ends the run.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._cut_after: int | None = None  # a step; the file may still have lines of later ones

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
        """Ignored: the file holds metrics only."""

    def finish(self, summary: RunSummary) -> None:
        """Does nothing: every line is already written."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, head: Mapping[str, int | str | bool], metrics: Mapping[str, float]) -> None:
        if self._file is None or self._path is None:
            raise RuntimeError("metrics.jsonl is not open; call start first")
        if reserved := sorted(_OWN_KEYS & metrics.keys()):
            raise TrackerError(
                f"metrics cannot be named {', '.join(reserved)}: metrics.jsonl reserves these keys; rename them"
            )
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
    with atomic_write(path) as temporary, path.open("rb") as lines, temporary.open("wb") as kept:
        for line in lines:
            if _step_of(line) <= step:
                kept.write(line.rstrip(b"\n") + b"\n")  # a full disk may have cut off only the last newline


def _step_of(line: bytes) -> float:
    # The last line of a killed run may be incomplete and is removed.
    try:
        entry = json.loads(line)
    except ValueError:
        return float("inf")
    found: int | Literal[False] = isinstance(entry, dict) and entry.get("step", False)
    return float("inf") if found is False else found
