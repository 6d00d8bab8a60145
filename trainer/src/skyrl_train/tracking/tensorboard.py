"""TensorBoard: event files in ``<run folder>/tensorboard``. Needs the extra `tensorboard`, and no torch."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skyrl_train.tracking.metric_glossary import with_prefix
from skyrl_train.tracking.tracker import RunInfo, RunSummary
from skyrl_train.tracking.tracker_extra import require

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Writes each metric as a scalar, and the configuration as text. A resumed run replaces the steps that it repeats.

    Raises:
        TrackerError: the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        require("tensorboard")
        self._writer: EventFileWriter | None = None

    def start(self, info: RunInfo) -> None:
        """Open an event file; a resumed run adds one to the same folder."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(info.run_folder / FOLDER))
        # TensorBoard then drops the events from this step on, which an earlier part of the run wrote. The evaluation
        # after step N belongs to the part before.
        self._add(info.start_step + 1 if info.start_step else 0, session_log=SessionLog(status=SessionLog.START))
        self._add_text(info.start_step, "config", f"```json\n{json.dumps(dict(info.config), indent=2)}\n```")
        self._add_text(info.start_step, "loss", info.loss)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add_scalars(step, metrics)

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:  # noqa: ARG002 - part of the protocol
        self._add_scalars(step, with_prefix(metrics))

    def message(self, text: str) -> None:
        """Ignored: messages are for the console."""

    def finish(self, summary: RunSummary) -> None:
        self._add_text(summary.steps, "outcome", summary.outcome)

    def close(self) -> None:
        """Write what is still in memory, and end the thread of the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _add_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(step, summary=Summary(value=values))

    def _add_text(self, step: int, name: str, text: str) -> None:
        from tensorboard.plugins.text.summary import text_pb

        self._add(step, summary=text_pb(name, text))

    def _add(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._writer is not None:
            self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
