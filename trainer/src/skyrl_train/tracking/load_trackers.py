"""Trackers by name, from the entry-point group ``skyrl.trackers``."""

from collections.abc import Iterable
from typing import cast

from skyrl_core.discovery import Claim, PluginCall
from skyrl_core.errors import PluginLoadError
from skyrl_train.config.plugin_check import TRACKER_GROUP
from skyrl_train.tracking.notebook import Notebook, is_notebook
from skyrl_train.tracking.tracker import Tracker, Trackers

_METHODS = ("start", "log_step", "log_evaluation", "message", "finish", "close")


def load_trackers(claims: Iterable[Claim]) -> Trackers:
    """The named trackers of a run, without duplicates. metrics.jsonl is always written, and is none of these.

    Raises:
        PluginLoadError: one of them is not a usable tracker.
        SkyrlError: one of them cannot work here, such as TrackerError for a package that is not installed.
    """
    others = [claim for claim in dict.fromkeys(claims) if (claim.distribution, claim.name) != ("skyrl-train", "jsonl")]
    return Trackers([*map(_load, others)])


def _load(claim: Claim) -> Tracker:
    if (claim.distribution, claim.name) == ("skyrl-train", "console") and is_notebook():
        return Notebook()
    name, loaded = claim.name, TRACKER_GROUP.load_claim(claim)
    if not callable(loaded):
        raise PluginLoadError(
            f"tracker {name!r} is not a class but {type(loaded).__name__}: point its entry point to a class"
        )
    guard, failed = TRACKER_GROUP.guard(claim), "could not be created without arguments"
    with PluginCall(guard, failed, kind=PluginLoadError, advice=lambda _: "read options from info.config in start()"):
        tracker = loaded()
    if missing := [method for method in _METHODS if not callable(getattr(tracker, method, None))]:
        raise PluginLoadError(f"tracker {name!r} lacks methods: {', '.join(missing)}. Implement them")
    return cast(Tracker, tracker)
