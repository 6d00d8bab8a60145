"""`TrainingRun`: what a finished, interrupted or failed run reports, read from its folder."""

import webbrowser
from collections.abc import Mapping
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.history import History, Metrics, read_history
from skyrl_train.tracking.html_report import write_report
from skyrl_train.tracking.metric_glossary import format_duration
from skyrl_train.tracking.report_result import comparison_rows, describe_failures
from skyrl_train.tracking.run_folder import RunFolder

REPORT_HEIGHT = 600
"""Pixels of a report in a notebook."""


class Report:
    """The page report.html of a run; a notebook shows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="{REPORT_HEIGHT}" style="border:0"></iframe>'


class TrainingRun:
    """A run. Its attributes are read from the folder at each access, so they are current while it trains."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Open a run, such as an earlier one.

        Raises:
            RunFolderError: the folder contains no run.
        """
        self.folder = Path(folder)
        if not self._files.run_file.exists():
            raise RunFolderError(f"there is no run in {folder}: give the run folder that training printed")

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def record(self) -> Mapping[str, Any]:
        """The content of run.json."""
        return self._files.read_run()

    @property
    def _metrics(self) -> History:
        return read_history(self._files.metrics)

    @property
    def outcome(self) -> str:
        """``finished``, ``interrupted``, ``failed``, ``running``, or ``killed``."""
        outcome = str(self.record.get("outcome", "unknown"))
        return "killed" if outcome == "running" and not self._files.is_owned() else outcome

    @property
    def steps(self) -> int:
        """Training steps done."""
        return self._metrics.last_step

    @property
    def history(self) -> Any:
        """A row for each step: a pandas DataFrame if pandas is installed, else a list of dicts."""
        return _table(self._metrics.train)

    @property
    def evaluations(self) -> Any:
        """A row for each evaluation on held-out problems, in the form of ``history``; step 0 is before training."""
        return _table(self._metrics.evaluations)

    @property
    def before(self) -> Metrics | None:
        """The evaluation before training, by metric."""
        return self._metrics.before

    @property
    def after(self) -> Metrics | None:
        """The latest evaluation after training began, by metric."""
        latest = self._metrics.after
        return latest[1] if latest else None

    @property
    def checkpoint(self) -> Path | None:
        """The latest checkpoint, from which `skyrl export` makes a model."""
        path = self.record.get("checkpoint")
        return Path(path) if path else None

    def report(self, *, open_browser: bool = False) -> Report:
        """Write report.html and return it; a notebook shows it.

        Raises:
            RunFolderError: it cannot be written.
        """
        path = write_report(self.folder)
        if open_browser:
            webbrowser.open(path.resolve().as_uri())
        return Report(path)

    def _headline(self) -> str:
        seconds = self.record.get("training_seconds")
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return f"{self.outcome} after {steps}" + (f", {format_duration(seconds)}" if seconds is not None else "")

    def _facts(self) -> dict[str, Any]:
        record = self.record
        facts = {
            "loss": (record.get("loss") or {}).get("id"),
            "error": record.get("error"),
            "not evaluated": describe_failures(record),
            "run folder": self.folder,
            "checkpoint": self.checkpoint,
            "to resume": record.get("resume_command"),
        }
        return {name: value for name, value in facts.items() if value}

    def __repr__(self) -> str:
        return f"TrainingRun({str(self.folder)!r})"

    def __str__(self) -> str:
        """The outcome, what training changed on held-out problems, and where things are."""
        lines = [f"{self.folder.name}: {self._headline()}"]
        rows = [
            ("held-out problems", "before", "after", "change"),
            *comparison_rows(self.before or {}, self.after or {}),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if len(rows) > 1:
            for label, *numbers in rows:
                cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
                lines.append("  ".join([f"  {label.ljust(widths[0])}", *cells]).rstrip())
        return "\n".join([*lines, *(f"  {name + ':':<12} {value}" for name, value in self._facts().items())])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("held-out problems", "before", "after", "change"))
        rows = [
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in comparison_rows(self.before or {}, self.after or {})
        ]
        table = f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else ""
        facts = "<br>".join(f"{name}: <code>{escape(str(value))}</code>" for name, value in self._facts().items())
        return f"<p><b>{escape(self.folder.name)}</b>: {escape(self._headline())}</p>{table}<p>{facts}</p>"


def _table(rows: Mapping[int, Metrics]) -> Any:
    records = [{"step": step, **rows[step]} for step in sorted(rows)]
    try:
        import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]  # optional
    except ImportError:
        return records
    columns = list(dict.fromkeys(name for record in records for name in record)) or ["step"]
    return pd.DataFrame(records, columns=columns).set_index("step")
