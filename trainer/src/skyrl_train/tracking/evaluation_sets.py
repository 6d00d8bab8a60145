"""Named evaluation sets: their metrics are logged as ``evaluation/NAME/METRIC``, next to those of the unnamed set."""

import re
from collections.abc import Mapping

from skyrl_train.tracking.history import Metrics

UNNAMED = ""
"""The set whose metrics have no prefix."""

_NAMED = re.compile(r"evaluation/(?P<set>[^/]+)/(?P<metric>.+)", re.DOTALL)


def split_by_set(metrics: Mapping[str, float | None]) -> dict[str, Metrics]:
    """The metrics of one evaluation by set, with plain names such as ``accuracy``; the unnamed set is first."""
    sets: dict[str, Metrics] = {}
    for name, value in metrics.items():
        match = _NAMED.fullmatch(name)
        sets.setdefault(match["set"] if match else UNNAMED, {})[match["metric"] if match else name] = value
    return {name: sets[name] for name in sorted(sets, key=lambda name: name != UNNAMED)}


def with_prefix(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an evaluation as a tracker shows them next to those of training: ``evaluation/accuracy``."""
    return {name if _NAMED.fullmatch(name) else f"evaluation/{name}": value for name, value in metrics.items()}
