"""Named evaluation sets: ``gsm8k/accuracy`` is the accuracy on the set ``gsm8k``."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from skyrl_train.tracking.history import Metrics
from skyrl_train.tracking.metric_glossary import GLOSSARY, STANDARD_ERROR

UNNAMED = ""
"""The set whose metrics have no prefix."""
PREFIX = "evaluation/"
"""Trackers show evaluations under this prefix, next to the metrics of training."""


def split_by_set(metrics: Mapping[str, float | None]) -> dict[str, Metrics]:
    """The metrics of one evaluation by set, with plain names such as ``accuracy``; the unnamed set is first."""
    sets: dict[str, Metrics] = {}
    for name, value in metrics.items():
        set_name, metric = _split(name)
        sets.setdefault(set_name, {})[metric] = value
    return {name: sets[name] for name in sorted(sets, key=lambda name: name != UNNAMED)}


def _split(name: str) -> tuple[str, str]:
    bare = name.removeprefix(PREFIX)
    set_name, _, metric = bare.partition("/")
    if metric and not _is_listed(bare) and _is_listed(metric):
        return set_name, metric
    return UNNAMED, bare


def _is_listed(name: str) -> bool:
    return any(fnmatchcase(name.removesuffix(STANDARD_ERROR), entry.pattern) for entry in GLOSSARY)


def with_prefix(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an evaluation as a tracker shows them: ``evaluation/accuracy``."""
    return {name if name.startswith(PREFIX) else f"{PREFIX}{name}": value for name, value in metrics.items()}
