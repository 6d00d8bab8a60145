"""Trackers by name, from the entry-point group ``skyrl.trackers``."""

from collections.abc import Iterable
from typing import cast

from skyrl_core.claim import Claim
from skyrl_core.errors import PluginLoadError
from skyrl_train.config.plugins import TRACKER_GROUP
from skyrl_train.tracking.jsonl import Jsonl
from skyrl_train.tracking.tracker import Tracker, Trackers

_METHODS = ("start", "log_step", "log_evaluation", "message", "finish", "close")


def load_trackers(claims: Iterable[Claim]) -> Trackers:
    """The trackers of a run: metrics.jsonl always and first, then those named, each once.

    Raises:
        PluginLoadError: one of them is no usable tracker.
    """
    others = [claim for claim in dict.fromkeys(claims) if (claim.distribution, claim.name) != ("skyrl-train", "jsonl")]
    return Trackers([Jsonl(), *map(_load, others)])


def _load(claim: Claim) -> Tracker:
    name, loaded = claim.name, TRACKER_GROUP.load_claim(claim)
    if not callable(loaded):
        raise PluginLoadError(f"tracker {name!r} is a {type(loaded).__name__}: its entry point must name a class")
    try:
        tracker = loaded()
    except Exception as error:
        raise PluginLoadError(
            f"tracker {name!r} could not be made without arguments: {type(error).__name__}: {error}. "
            "Read options from info.config in start()."
        ) from error
    if missing := [method for method in _METHODS if not callable(getattr(tracker, method, None))]:
        raise PluginLoadError(f"tracker {name!r} lacks the methods {', '.join(missing)}")
    return cast(Tracker, tracker)
