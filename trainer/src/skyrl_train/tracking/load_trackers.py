"""Trackers by name, from the entry-point group ``skyrl.trackers``."""

from collections.abc import Iterable
from typing import cast

from skyrl_core.discovery import ALLOW_ALL, TRACKERS, PluginGroup, PluginPolicy
from skyrl_core.errors import PluginLoadError
from skyrl_train.tracking.metrics_jsonl import Jsonl
from skyrl_train.tracking.tracker import Tracker, Trackers

_GROUP = PluginGroup(TRACKERS, "tracker")
_METHODS = ("start", "log_step", "log_evaluation", "message", "finish", "close")


def load_trackers(references: Iterable[str], policy: PluginPolicy = ALLOW_ALL) -> Trackers:
    """The trackers of a run: metrics.jsonl first, always, then the named trackers without duplicates.

    Raises:
        UnknownPluginError, PluginConflictError, PluginLoadError: a name does not lead to a usable tracker.
    """
    names = [name for name in dict.fromkeys(references) if name != "jsonl"]
    return Trackers([Jsonl(), *(_load(name, policy) for name in names)])


def _load(reference: str, policy: PluginPolicy) -> Tracker:
    loaded = _GROUP.load(reference, policy)
    if not callable(loaded):
        raise PluginLoadError(
            f"tracker {reference!r} is not a class but {type(loaded).__name__}: point its entry point to a class"
        )
    try:
        tracker = loaded()
    except Exception as error:
        raise PluginLoadError(
            f"tracker {reference!r} could not be created without arguments: {type(error).__name__}: {error}. "
            "Read options from info.config in start()."
        ) from error
    if missing := [method for method in _METHODS if not callable(getattr(tracker, method, None))]:
        raise PluginLoadError(f"tracker {reference!r} lacks methods: {', '.join(missing)}. Implement them")
    return cast(Tracker, tracker)
