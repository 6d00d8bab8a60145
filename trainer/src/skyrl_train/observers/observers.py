"""Notifies the observers of a run and keeps their failures from ending it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from skyrl_core.discovery import Guard, PluginCall
from skyrl_core.errors import PluginLoadError, SkyrlError
from skyrl_train.observers.hookspecs import FATAL_HOOKS

logger = logging.getLogger(__name__)


class ObserverError(PluginLoadError):
    """An observer raised in train_start or checkpoint_loading, which ends the run."""


@dataclass(frozen=True)
class Observer:
    """One observer and its pluggy manager."""

    name: str
    manager: pluggy.PluginManager
    guard: Guard


class Observers:
    """Calls the hooks of all observers in order. One that raises is logged once and disabled.

    Raises:
        ObserverError: an observer raised in ``train_start`` or ``checkpoint_loading``.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._active = list(observers)

    def train_start(self, run: Mapping[str, Any]) -> None:
        self._call("train_start", run=MappingProxyType(dict(run)))

    def step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("step_end", step=step, metrics=MappingProxyType(dict(metrics)))

    def checkpoint_saved(self, path: Path) -> None:
        self._call("checkpoint_saved", path=path)

    def checkpoint_loading(self, path: Path) -> None:
        self._call("checkpoint_loading", path=path)

    def train_end(self, outcome: str) -> None:
        self._call("train_end", outcome=outcome)

    def error(self, message: str) -> None:
        self._call("error", message=message)

    def _call(self, hook: str, **arguments: Any) -> None:
        for observer in list(self._active):
            fatal = hook in FATAL_HOOKS
            failed = f"refused the run in {hook}" if fatal else f"failed in {hook} and is disabled; training continues"
            try:
                with PluginCall(observer.guard, failed, kind=ObserverError):
                    getattr(observer.manager.hook, hook)(**arguments)
            except SkyrlError as error:  # an observer must not end a training run
                if fatal:
                    raise
                self._active.remove(observer)
                logger.warning("%s", error)
