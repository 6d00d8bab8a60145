"""metrics.jsonl, the record of a run: one JSON object per line. Trackers only mirror it."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from skyrl_core.errors import SkyrlError
from skyrl_train.tracking.atomic_file import RunFolderError, atomic_write, flush_to_disk, write_error
from skyrl_train.tracking.history import OWN_KEYS, parse_entry
from skyrl_train.tracking.strict_json import encode
from skyrl_train.tracking.tracker import RunInfo, TrackerError

METRICS_FILE = "metrics.jsonl"


class MetricsRecord:
    """Appends ``{"step": 3, "kind": "train", "time": ..., "reward/mean": 0.5, ...}``; NaN and infinity become null.

    A resumed run removes the lines after the step that it resumes from only when it writes a new line, so a resume
    that fails loses nothing. No error is ignored: a run never trains without its record.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._cut_after: int | None = None  # a step; the file may still have lines of later ones
        self._pending = b""  # not written yet, because a write failed
        self._lock = threading.Lock()  # a checkpoint's thread calls `sync`

    def start(self, info: RunInfo) -> list[str]:
        """Check the lines of an earlier part of the run and open the file. Returns notes for the user.

        Raises:
            RunFolderError: it cannot be written, or a line other than the last is malformed.
        """
        self._path = info.run_folder / METRICS_FILE
        exists = self._path.exists()
        notes = _check(self._path, info.start_step) if exists or info.start_step else []
        self._cut_after = info.start_step if exists else None
        self._file = _opened(self._path)
        return notes

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a training step."""
        self._append({"step": step, "kind": "train"}, metrics)

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        """Append an evaluation after ``step`` steps; ``final`` marks the one after the last step."""
        self._append({"step": step, "kind": "evaluation", "final": final}, metrics)

    def sync(self) -> None:
        """Wait until every line is on disk. A checkpoint is published only after its steps are recorded.

        Raises:
            RunFolderError: the disk is full or fails.
        """
        with self._lock:
            if self._file is None or self._path is None:
                return
            self._write_pending()
            try:
                flush_to_disk(self._path)
                flush_to_disk(self._path.parent)
            except OSError as error:
                raise write_error(self._path, error) from error

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _append(self, head: Mapping[str, int | str | bool], metrics: Mapping[str, float]) -> None:
        if reserved := sorted(OWN_KEYS & metrics.keys()):
            raise TrackerError(
                f"metrics cannot be named {', '.join(reserved)}: metrics.jsonl reserves these keys; rename them"
            )
        try:
            line = encode({**head, "time": round(time.time(), 3), **metrics}) + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise SkyrlError(
                f"the metrics of step {head['step']} cannot be recorded: {error}; log numbers only"
            ) from error
        with self._lock:
            self._pending += line
            self._write_pending()

    def _write_pending(self) -> None:
        if self._file is None or self._path is None:
            raise RuntimeError("metrics.jsonl is not open; call start first")
        if self._cut_after is not None and self._pending:
            self._file.close()
            _cut(self._path, self._cut_after)
            self._file, self._cut_after = _opened(self._path), None
        try:
            # Unbuffered, and the rest of a line is kept: `sync` completes it if the disk has room again.
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            raise write_error(self._path, error) from error


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise write_error(path, error) from error


def _check(path: Path, start_step: int) -> list[str]:
    """Notes about an incomplete last line and about missing steps up to ``start_step``.

    Raises:
        RunFolderError: another line is malformed, or the file cannot be read.
    """
    missing, problem, number = set(range(1, start_step + 1)), "", 0
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise RunFolderError(f"{path} is not a regular file: move it away, then resume again")
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if problem:
                    raise RunFolderError(
                        f"{path}:{number - 1}: not a line of metrics ({problem}), so the record of this run is "
                        "damaged: restore the file, or delete that line, then resume again"
                    )
                try:
                    missing.discard(parse_entry(line)["step"])
                except ValueError as error:
                    problem = str(error)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}; make it readable") from error
    notes = [f"{path.name}:{number}: the last line is incomplete, and the next step replaces it"] if problem else []
    return [*notes, *([f"{path.name} lacks {_steps(sorted(missing))} of this run"] if missing else [])]


def _steps(steps: list[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"{len(steps)} steps, from {steps[0]} to {steps[-1]},"


def _cut(path: Path, step: int) -> None:
    with atomic_write(path) as temporary, path.open("rb") as lines, temporary.open("wb") as kept:
        for line in lines:
            if _step_of(line) <= step:
                kept.write(line.rstrip(b"\n") + b"\n")  # a full disk may have cut off only the last newline


def _step_of(line: bytes) -> float:
    try:
        return int(parse_entry(line)["step"])
    except ValueError:  # the last line of a killed run is incomplete and is removed
        return float("inf")
