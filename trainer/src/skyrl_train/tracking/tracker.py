"""The interface of a tracker, the data that it receives, and the composite that forwards to all trackers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from skyrl_core.discovery import PluginCall
from skyrl_core.errors import PluginError, SkyrlError
from skyrl_train.config.plugin_check import TRACKER_GROUP

Outcome = Literal["finished", "interrupted", "failed"]

logger = logging.getLogger(__name__)


class TrackerError(SkyrlError):
    """A tracker cannot work as configured. Ends the run."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The facts about a run that are known before its first step."""

    run_folder: Path
    title: str
    loss: str  # the identity, distribution:name@semantics
    total_steps: int
    config: Mapping[str, Any]  # resolved; plain data
    world_size: int = 1
    start_step: int = 0  # steps already completed; above 0 in a resumed run


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """A held-out question and the answers before and after training. ``before`` is None if it was not kept."""

    question: str
    expected: str
    before: str | None
    before_correct: bool | None  # None also if the environment does not say
    after: str
    after_correct: bool | None
    before_reward: float | None = None  # None: no verdict
    after_reward: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The outcome of a run."""

    run_folder: Path
    steps: int  # the last completed step
    seconds: float  # training time, including evaluations
    before: Mapping[str, float] | None = None  # the evaluation before the first step
    after: Mapping[str, float] | None = None  # the evaluation after the last step
    answers: tuple[AnswerPair, ...] = ()
    checkpoint: Path | None = None
    resume_command: str | None = None
    failed_evaluations: tuple[Mapping[str, Any], ...] = ()  # step and error of each
    outcome: Outcome = "finished"
    error: str | None = None  # the error that ended a failed run


class Tracker(Protocol):
    """Receives the metrics of a run, on rank 0 only. Created without arguments; options are in ``info.config``.

    An exception is reported once and disables the tracker; the run continues. A ``SkyrlError`` ends the run.
    """

    def start(self, info: RunInfo) -> None:
        """Called once, before the first evaluation and the first step."""
        ...

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one training step; the first step is 1."""
        ...

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        """The metrics of an evaluation after ``step`` steps; ``final`` marks the one after the last step."""
        ...

    def message(self, text: str) -> None:
        """One line of text for the user."""
        ...

    def finish(self, summary: RunSummary) -> None:
        """Called once at the end of training, even if it was interrupted."""
        ...

    def close(self) -> None:
        """Release all resources. Always called once, even without ``finish``."""
        ...


class Trackers:
    """A tracker that forwards to all trackers in order. One that raises is reported once and disabled."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._active = list(trackers)
        self._all = list(trackers)
        self._guards = {id(tracker): TRACKER_GROUP.guard_of(type(tracker)) for tracker in trackers}

    def start(self, info: RunInfo) -> None:
        self._forward("start", lambda tracker: tracker.start(info))

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._forward("log_step", lambda tracker: tracker.log_step(step, metrics))

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        self._forward("log_evaluation", lambda tracker: tracker.log_evaluation(step, metrics, final))

    def message(self, text: str) -> None:
        self._forward("message", lambda tracker: tracker.message(text))

    def finish(self, summary: RunSummary) -> None:
        self._forward("finish", lambda tracker: tracker.finish(summary))

    def close(self) -> None:
        """Close all trackers, even disabled ones, which may hold files and processes. A second call does nothing."""
        closing, self._all, self._active = self._all, [], []
        for tracker in closing:
            try:
                with PluginCall(self._guards[id(tracker)], "could not be closed"):
                    tracker.close()
            except SkyrlError as error:  # the others must still be closed, and the result of the run is unaffected
                logger.warning("%s", error)

    def _forward(self, what: str, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._active):
            try:
                with PluginCall(self._guards[id(tracker)], f"failed in {what} and is disabled; training continues"):
                    call(tracker)
            except PluginError as error:  # a broken dashboard must not end a training run
                self._active.remove(tracker)
                logger.warning("%s", error)
