"""`train`: trains from Python code, a script or a notebook, and returns the run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyrl_core.errors import SkyrlError
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.problem import raise_problems
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.sources import KEYWORDS
from skyrl_train.entrypoints.given_plugins import (
    loader_of_environment,
    name_of_loss,
    settings_of_environment,
    with_function,
)
from skyrl_train.machine.gc_pause import many_imports
from skyrl_train.machine.process_state import restored_interpreter, restored_libraries
from skyrl_train.ranks.stopping import Interrupted
from skyrl_train.tracking.training_run import TrainingRun

if TYPE_CHECKING:
    from skyrl_core import PolicyLoss
    from skyrl_train.environments.environment import Environment

CONFIG = "config argument"
"""The origin of options in the mapping that is passed to ``train``."""


def train(
    config: Mapping[str, Any] | str | PathLike[str] | None = None,
    *,
    loss: "str | PolicyLoss | type[PolicyLoss] | Any | None" = None,
    environment: "str | Environment | type[Environment] | Mapping[str, Any] | Any | None" = None,
    resume: "str | PathLike[str] | TrainingRun | None" = None,
    accept_loss_change: bool = False,
    accept_changes: bool = False,
    **overrides: Any,
) -> TrainingRun:
    """Train in this process and return the run. ``skyrl train`` does the same with a command line.

    Afterwards the process is as before: environment variables, signal handlers, random numbers, logging, threads and
    process groups. Ctrl-C, or the stop button of a notebook, ends the run after the step, with a checkpoint; then
    KeyboardInterrupt is raised, whose attribute ``run`` has the TrainingRun.

    Args:
        config: options as a dict, a YAML file, or a preset such as "quickstart". None, and a dict without a model, take
            the quickstart settings for the tiny model.
        loss: a name from ``skyrl losses list``, a PolicyLoss class, an instance with its parameters, or a function. A
            class or function is registered under its name.
        environment: a name, an Environment class, an instance with its parameters, a reward function
            ``(completion, row)``, or a section of options.
        resume: continue this run; ``config`` defaults to its configuration.
        accept_loss_change: resume although the loss or its parameters changed.
        accept_changes: resume although options, data, code or the loss changed.
        **overrides: sections or options, such as ``trainer={"steps": 3}``, ``seed=1`` or ``**{"trainer.steps": 3}``.

    Raises:
        SkyrlError: the run cannot start, or failed; for an invalid configuration the message lists every problem.
        KeyboardInterrupt: a signal ended the run.
    """
    accepted = {"accept_loss_change": accept_loss_change, "accept_changes": accept_changes}
    run = resolve(config, loss, environment, resume, **accepted, overrides=overrides)
    folders: list[Path] = []
    with restored_interpreter(), _reports_folder(folders):
        with many_imports("skyrl_train.training.build"):
            from skyrl_train.ranks.ranks import released_group
            from skyrl_train.training.build import run_training
        with restored_libraries(), released_group():
            folder = run_training(run, folders.append)
    return TrainingRun(folder)


def resolve(
    config: Mapping[str, Any] | str | PathLike[str] | None,
    loss: Any,
    environment: Any,
    resume: "str | PathLike[str] | TrainingRun | None",
    *,
    accept_loss_change: bool,
    accept_changes: bool = False,
    overrides: Mapping[str, Any],
) -> ResolvedRun:
    """The validated run that the arguments of ``train`` describe.

    Raises:
        SkyrlError: the run cannot start; the message lists every problem.
    """
    values, files = (config, []) if isinstance(config, Mapping) else ({}, _files(config))
    name, of_loss = (None, {}) if loss is None else name_of_loss(loss)
    environment = with_function(environment)
    section = settings_of_environment(environment)
    settings: dict[str, Mapping[str, Any]] = {CONFIG: values, "loss argument": of_loss}
    settings["environment argument"] = {"environment": section} if section else {}
    settings[KEYWORDS] = overrides
    resumed = resume.folder if isinstance(resume, TrainingRun) else resume
    run = resolve_run(
        loader_of_environment(environment),
        files=files,
        settings=settings,
        loss=name,
        resume=None if resumed is None else fspath(resumed),
        accept_loss_change=accept_loss_change,
        accept_changes=accept_changes,
    )
    raise_problems(run.missing, "the run cannot start on this machine")
    return run


def _files(config: str | PathLike[str] | None) -> Sequence[Path]:
    if config is None:
        return []
    try:
        return [Path(config)]
    except TypeError:
        raise SkyrlError(
            f"config = {config!r}: pass a dict, the path of a YAML file, or the name of a preset"
        ) from None


@contextmanager
def _reports_folder(folders: Sequence[Path]) -> Iterator[None]:
    """Add the run to an exception that ends it, so that nothing of it is lost."""
    try:
        yield
    except Interrupted as stop:
        stop.run = TrainingRun(folders[0]) if folders else None
        raise
    except Exception as error:
        if folders:
            error.add_note(f"run folder: {folders[0]}")
        raise
