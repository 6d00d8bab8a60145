"""Weights & Biases: online with a key, offline without, never a question and never a wait without an end."""

import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import wandb

from skyrl_train.tracking.tracker import RunInfo, RunSummary, TrackerError

Mode = Literal["online", "offline", "disabled"]

CONNECT_SECONDS = 30
"""How long to wait for the server before training."""
UPLOAD_SECONDS = 120
"""How long to wait at the end for what is not uploaded yet; the rest stays in the run folder."""

logger = logging.getLogger(__name__)


class Wandb:
    """Mirrors the metrics to W&B. Its files go to ``<run folder>/wandb``; a resumed run continues the same W&B run.

    Options are ``tracking.wandb`` in the configuration. ``auto`` obeys WANDB_MODE=offline or disabled, else goes online
    if there is a key (WANDB_API_KEY, `wandb login`) and offline if there is none or the server does not answer.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, info: RunInfo) -> None:
        """Begin or continue the W&B run.

        Raises:
            TrackerError: the mode is ``online`` and there is no key or no connection.
        """
        options = info.config.get("tracking", {}).get("wandb", {})
        project, wanted = options.get("project", "skyrl"), options.get("mode", "auto")
        mode, why = _chosen_mode(wanted)
        if mode == "disabled":
            return
        try:
            self._run = _begin(info, project, mode)
        except wandb.errors.Error as error:
            # The failed attempt would keep the id of the run in use, and its service process.
            wandb.teardown()
            if mode != "online":
                raise
            if wanted == "online":
                raise TrackerError(
                    f"tracking.wandb.mode is online, but W&B refused or did not answer: {_one_line(error)}. "
                    "Check the key and the network, or set tracking.wandb.mode=auto or offline."
                ) from error
            mode, why = "offline", f"W&B refused or did not answer: {_one_line(error)}"
            self._run = _begin(info, project, mode)
        if mode == "offline":
            reason = f" ({why})" if why else ""
            logger.warning(
                "W&B keeps this run offline%s; `wandb sync %s` uploads it", reason, Path(self._run.dir).parent
            )

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.log({**metrics, "step": step})

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        if self._run is not None:
            self._run.log({f"evaluation/{name}": value for name, value in metrics.items()} | {"step": step})
            if final:
                self._run.summary["final_evaluation_step"] = step

    def message(self, text: str) -> None:
        """Messages are for the console."""

    def finish(self, summary: RunSummary) -> None:
        if self._run is not None:
            self._run.summary.update({"outcome": summary.outcome, "training_seconds": summary.seconds})
            self._run.finish(exit_code=0 if summary.outcome == "finished" else 1)
            self._run = None

    def close(self) -> None:
        """End the run if it was not finished, and the service process of W&B with it."""
        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=1)
        finally:
            wandb.teardown()


def _begin(info: RunInfo, project: str, mode: Mode) -> Any:
    run = wandb.init(
        project=project,
        name=info.run_folder.name,
        id=_run_id(info.run_folder),
        # Offline runs know nothing of their past; `wandb sync` joins parts of one id.
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
    # A resumed run logs some steps again; W&B's own counter would drop them.
    run.define_metric("*", step_metric="step")
    return run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _run_id(run_folder: Path) -> str:
    path = run_folder / "wandb" / "run_id"
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    run_id = uuid.uuid4().hex[:12]
    path.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _chosen_mode(wanted: str) -> tuple[Mode, str]:
    """The mode to begin with, and why it is not the one that the user may expect."""
    wish = os.environ.get("WANDB_MODE", "") if wanted == "auto" else wanted
    if wish == "disabled":
        return "disabled", ""
    if wish == "offline":
        return "offline", "WANDB_MODE=offline" if wanted == "auto" else ""
    problem = _key_problem()
    if not problem:
        return "online", ""
    if wanted == "online":
        raise TrackerError(
            f"tracking.wandb.mode is online, but {problem}: set WANDB_API_KEY or run `wandb login`, "
            "or set tracking.wandb.mode=auto or offline."
        )
    return "offline", problem


def _key_problem() -> str:
    # Quiet, and never a question: W&B would ask on a terminal. The key is not sent anywhere yet.
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        return "" if wandb.login(prompt=False, verify=False) else "no API key was found"
    except wandb.errors.AuthenticationError as error:
        return f"the API key is not valid: {_one_line(error)}"
