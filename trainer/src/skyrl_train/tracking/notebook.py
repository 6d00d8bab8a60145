"""The output of a cell: the progress of a run in Jupyter, where a terminal's progress bar does not work.

One display is replaced in place, through IPython only, so that it works in every notebook that shows HTML.
"""

import sys
import time
from collections.abc import Mapping
from html import escape
from importlib import import_module
from typing import Any

from skyrl_core.discovery import printable
from skyrl_train.tracking.metric_glossary import describe, format_duration, format_metric, in_order
from skyrl_train.tracking.pace import Pace
from skyrl_train.tracking.tracker import RunInfo, RunSummary

STEP_METRICS = ("reward/mean", "loss/total", "tokens_per_second")
BETWEEN_UPDATES = 0.25
"""Seconds: each update is a message to the browser, which keeps up with a few in a second."""


class Notebook:
    """A progress bar with the latest metrics, and below it messages and evaluations."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._title = self._status = ""
        self._lines: list[str] = []
        self._total = self._step = 0
        self._pace = Pace(0, 0)
        self._updated = 0.0

    def start(self, info: RunInfo) -> None:
        self._total, self._step = info.total_steps, info.start_step
        self._pace = Pace(info.start_step, info.total_steps)
        self._title = f"{info.title}, loss {info.loss}, run folder {info.run_folder}"
        self._status = "loading the model"
        self._show()

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        self._pace.reached(step)
        values = [f"{describe(name).label} {format_metric(name, metrics)}" for name in STEP_METRICS if name in metrics]
        times = [f"{format_duration(self._pace.elapsed())} elapsed", self._pace.remaining()]
        self._status = " · ".join([f"step {step}/{self._total}", *values, *filter(None, times)])
        if step == self._total or time.monotonic() > self._updated + BETWEEN_UPDATES:
            self._show()

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        when = "after training" if final else f"after step {step}" if step else "before training"
        values = [f"{describe(name).label} {format_metric(name, metrics)}" for name in in_order(metrics)]
        self.message(f"evaluation {when}: {' · '.join(values)}")

    def message(self, text: str) -> None:
        self._lines.append(text)
        self._show()

    def finish(self, summary: RunSummary) -> None:
        """Leave the bar as the run ended; the TrainingRun that `train` returns has the result."""
        self._status = f"{summary.outcome} after step {summary.steps}, {format_duration(summary.seconds)}"
        self._show()

    def close(self) -> None:
        """Nothing to release: the output belongs to the cell."""

    def _show(self) -> None:
        ipython: Any = import_module("IPython.display")  # not a dependency: where it is missing, there is no notebook
        self._updated = time.monotonic()
        html = ipython.HTML(self._html())
        if self._handle is None:
            self._handle = ipython.display(html, display_id=True)
        else:
            self._handle.update(html)

    def _html(self) -> str:
        bar = f'<progress value="{self._step}" max="{self._total}" style="width:20em"></progress>'
        lines = "".join(f"<div>{_escaped(line)}</div>" for line in self._lines)
        return f"<div><b>{_escaped(self._title)}</b></div><div>{bar} {_escaped(self._status)}</div>{lines}"


def _escaped(text: str) -> str:
    return escape(printable(text, escape=True, lines=True)).replace("\n", "<br>")


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return getattr(get_ipython(), "kernel", None) is not None
