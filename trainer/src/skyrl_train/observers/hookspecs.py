"""The events of a run that an observer may watch. Arguments are plain data, and a hook may take only those it needs.

All hooks run on rank 0, between steps: they must be quick, and must not call anything that other ranks take part in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pluggy

PROJECT = "skyrl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a hook of an observer. ``pluggy.HookimplMarker("skyrl")`` is the same, without importing the trainer."""


@hookspec
def train_start(run: Mapping[str, Any]) -> None:
    """Before the first step. ``run`` is what run.json says. An exception ends the run."""


@hookspec
def step_end(step: int, metrics: Mapping[str, float]) -> None:
    """After each training step, with its metrics."""


@hookspec
def checkpoint_saved(path: Path) -> None:
    """The checkpoint in ``path`` is complete."""


@hookspec
def checkpoint_loading(path: Path) -> None:
    """Before a run resumes from ``path``. An exception ends the run."""


@hookspec
def train_end(outcome: str) -> None:
    """After the last step: ``finished``, ``interrupted`` or ``failed``."""


@hookspec
def error(message: str) -> None:
    """An error ends the run; ``train_end`` follows."""


HOOKS = ("train_start", "step_end", "checkpoint_saved", "checkpoint_loading", "train_end", "error")
FATAL_HOOKS = frozenset({"train_start", "checkpoint_loading"})
"""Nothing is lost yet when these fail, and an observer that guards a run must be able to refuse it."""
