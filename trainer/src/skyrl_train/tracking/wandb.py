"""Weights & Biases: online with a key, offline without one. Never prompts and never waits indefinitely."""

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb

from skyrl_core.redaction import redact_arguments
from skyrl_train.tracking.metric_glossary import with_prefix
from skyrl_train.tracking.tracker import RunInfo, RunSummary, TrackerError

Mode = Literal["online", "offline", "disabled"]

CONNECT_SECONDS = 30
"""Maximum wait for the server before training."""
UPLOAD_SECONDS = 120
"""Maximum wait for uploads at the end; data not uploaded by then stays in the run folder."""

logger = logging.getLogger(__name__)


class Wandb:
    """Mirrors the metrics to W&B. Its files are in ``<run folder>/wandb``; a resumed run continues the same W&B run.

    The options are in ``tracking.wandb``. Mode ``auto`` obeys WANDB_MODE=offline or disabled. Otherwise it goes online
    with a key (WANDB_API_KEY, `wandb login`), and offline without a key or if the server does not respond.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, info: RunInfo) -> None:
        """Start or continue the W&B run.

        Raises:
            TrackerError: the mode is ``online`` and the key or the connection is missing.
        """
        options = info.config.get("tracking", {}).get("wandb", {})
        wanted = options.get("mode", "auto")
        mode, why = _chosen_mode(wanted)
        if mode == "disabled":
            return
        try:
            with _redacted_command():
                self._run = _begin(info, options, mode)
        except wandb.errors.Error as error:
            # Otherwise the failed attempt would keep the run id and the service process in use.
            wandb.teardown()
            if mode != "online":
                raise
            if wanted == "online":
                raise TrackerError(
                    "tracking.wandb.mode is online, but W&B refused the connection or did not respond: "
                    f"{_one_line(error)}. "
                    "Check the key and the network, or set tracking.wandb.mode to auto or offline."
                ) from error
            mode, why = "offline", f"W&B refused the connection or did not respond: {_one_line(error)}"
            with _redacted_command():
                self._run = _begin(info, options, mode)
        if mode == "offline":
            reason = f" ({why})" if why else ""
            logger.warning(
                "W&B logs this run offline%s; upload it with `wandb sync %s`", reason, Path(self._run.dir).parent
            )

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.log({**metrics, "step": step})

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        if self._run is not None:
            self._run.log({**with_prefix(metrics), "step": step})
            if final:
                self._run.summary["final_evaluation_step"] = step

    def message(self, text: str) -> None:
        """Ignored: messages are for the console."""

    def finish(self, summary: RunSummary) -> None:
        if self._run is not None:
            self._run.summary.update({"outcome": summary.outcome, "training_seconds": summary.seconds})
            self._run.finish(exit_code=0 if summary.outcome == "finished" else 1)
            self._run = None

    def close(self) -> None:
        """End the run if it was not finished, and stop the service process of W&B."""
        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=1)
        finally:
            wandb.teardown()


@contextmanager
def _redacted_command() -> Iterator[None]:
    """W&B reads the command line of the process and has no setting for another one."""
    given = sys.argv
    sys.argv = redact_arguments(given)
    try:
        yield
    finally:
        sys.argv = given


def _begin(info: RunInfo, options: Mapping[str, Any], mode: Mode) -> Any:
    run = wandb.init(
        project=options.get("project", "skyrl"),
        # None leaves these to W&B's environment variables.
        entity=options.get("entity"),
        group=options.get("group"),
        tags=list(options.get("tags", ())) or None,
        notes=options.get("notes"),
        name=options.get("name") or os.environ.get("WANDB_NAME") or info.run_folder.name,
        id=_run_id(info.run_folder, options.get("id")),
        # An offline run cannot look up earlier parts; `wandb sync` joins parts with the same id.
        resume="allow" if mode == "online" else None,
        dir=str(info.run_folder),
        mode=mode,
        config={**info.config, "loss": info.loss, "world_size": info.world_size},
        settings=wandb.Settings(
            init_timeout=CONNECT_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=False,
            # The console tracker owns the terminal.
            console="off",
            silent=True,
        ),
    )
    # A resumed run may log steps again, which the step counter of W&B would drop.
    run.define_metric("*", step_metric="step")
    return run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _run_id(run_folder: Path, wanted: str | None) -> str:
    """The id of the W&B run: the wanted one, or that of the run folder, which a resumed run has already."""
    path = run_folder / "wandb" / "run_id"
    if wanted is None and path.exists():
        return path.read_text(encoding="utf-8").strip()
    run_id = wanted or uuid.uuid4().hex[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _chosen_mode(wanted: str) -> tuple[Mode, str]:
    """The mode to start with, and the reason if it is not the expected one."""
    chosen = os.environ.get("WANDB_MODE", "") if wanted == "auto" else wanted
    if chosen == "disabled":
        return "disabled", ""
    if chosen == "offline":
        return "offline", "WANDB_MODE=offline" if wanted == "auto" else ""
    problem = _key_problem()
    if not problem:
        return "online", ""
    if wanted == "online":
        raise TrackerError(
            f"tracking.wandb.mode is online, but {problem}: set WANDB_API_KEY or run `wandb login`, "
            "or set tracking.wandb.mode to auto or offline."
        )
    return "offline", problem


def _key_problem() -> str:
    # Silent and without the prompt that W&B would show on a terminal. The key is not sent anywhere yet.
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return "" if wandb.login(prompt=False, verify=False) else "no API key was found"
    except wandb.errors.AuthenticationError as error:
        return f"the API key is not valid: {_one_line(error)}"
