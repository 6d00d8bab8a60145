"""Trackio: Hugging Face's tracker, which stores runs on this machine or in a Space. Needs the extra `trackio`."""

import contextlib
import io
import logging
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skyrl_train.tracking.atomic_file import write_bytes
from skyrl_train.tracking.metric_glossary import with_prefix
from skyrl_train.tracking.tracker import RunInfo, RunSummary
from skyrl_train.tracking.tracker_extra import require

if TYPE_CHECKING:
    import trackio

logger = logging.getLogger(__name__)


class Trackio:
    """Mirrors the metrics to Trackio; a resumed run continues the same run. The options are in ``tracking.trackio``.

    Raises:
        TrackerError: the package trackio is not installed.
    """

    def __init__(self) -> None:
        require("trackio")
        self._run: trackio.Run | None = None

    def start(self, info: RunInfo) -> None:
        """Start or continue the run."""
        import trackio

        options = info.config.get("tracking", {}).get("trackio", {})
        name, is_known = _run_name(info.run_folder, options.get("name"))
        with _quiet():
            self._run = trackio.init(
                project=options.get("project", "skyrl"),
                name=name,
                group=options.get("group"),
                space_id=options.get("space"),
                private=True,
                config={**info.config, "loss": info.loss, "world_size": info.world_size},
                resume="allow" if is_known else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._log(metrics, step)

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:  # noqa: ARG002 - part of the protocol
        self._log(with_prefix(metrics), step)

    def message(self, text: str) -> None:
        """Ignored: messages are for the console."""

    def finish(self, summary: RunSummary) -> None:  # noqa: ARG002 - part of the protocol
        self.close()

    def close(self) -> None:
        """Send what is still in memory; waits half a minute at most."""
        run, self._run = self._run, None
        if run is not None:
            import trackio

            with _quiet():
                trackio.finish()  # not run.finish(), which would print again when the process ends

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._run is not None:
            self._run.log(dict(metrics), step=step)


def _run_name(run_folder: Path, wanted: str | None) -> tuple[str, bool]:
    """The name of the run, and whether an earlier part of it has used the name. Trackio resumes runs by name."""
    file = run_folder / "trackio" / "run_name"
    if file.exists():
        return file.read_text(encoding="utf-8").strip(), True
    name = wanted or f"{run_folder.name}-{uuid.uuid4().hex[:4]}"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, f"{name}\n".encode())
    return name, False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Trackio prints off the screen, which the console tracker owns."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    logger.debug("trackio: %s", printed.getvalue().strip())
