"""The hooks of an observer. Arguments are plain data, and a hook may declare only the ones that it needs.

All hooks run on rank 0 between steps. They must be fast and must not call collective operations.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pluggy

PROJECT = "skyrl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a hook of an observer. ``pluggy.HookimplMarker("skyrl")`` is equivalent and does not import the trainer."""


@hookspec
def train_start(run: Mapping[str, Any]) -> None:
    """Called before the first step with the content of run.json. An exception ends the run."""


@hookspec
def step_end(step: int, metrics: Mapping[str, float]) -> None:
    """Called after each training step with its metrics."""


@hookspec
def checkpoint_saved(path: Path) -> None:
    """Called when the checkpoint in ``path`` is complete."""


@hookspec
def checkpoint_loading(path: Path) -> None:
    """Called before a run resumes from ``path``. An exception ends the run."""


@hookspec
def train_end(outcome: str) -> None:
    """Called at the end of a run. ``outcome`` is ``finished``, ``interrupted`` or ``failed``."""


@hookspec
def error(message: str) -> None:
    """Called when an error ends the run, before ``train_end``."""


HOOKS = ("train_start", "step_end", "checkpoint_saved", "checkpoint_loading", "train_end", "error")
FATAL_HOOKS = frozenset({"train_start", "checkpoint_loading"})
"""An exception in these hooks ends the run, so an observer can refuse it. No training time is lost yet."""
