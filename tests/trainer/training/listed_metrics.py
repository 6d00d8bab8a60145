"""Which keys of metrics.jsonl the glossary of metrics explains."""

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from skyrl_train.tracking.glossary import GLOSSARY, STANDARD_ERROR

NO_METRICS = {"step", "kind", "time", "final"}


def metric_names(lines: Iterable[Mapping[str, Any]], terms: Collection[str] = ()) -> set[str]:
    """The metrics in lines of metrics.jsonl.

    A standard error counts as the metric that it belongs to. The metrics that the loss ``sum`` logs under the label of
    one of its ``terms`` count as those of the term.
    """
    keys = {name.removesuffix(STANDARD_ERROR) for line in lines for name in line} - NO_METRICS
    return {name.partition("/")[2] if name.partition("/")[0] in terms else name for name in keys}


def unlisted(names: Iterable[str]) -> set[str]:
    """The metrics that match no pattern of the glossary."""
    return {name for name in names if not any(fnmatchcase(name, entry.pattern) for entry in GLOSSARY)}


def unlogged(names: Collection[str]) -> list[str]:
    """The patterns of the glossary that match none of the metrics."""
    return [entry.pattern for entry in GLOSSARY if not any(fnmatchcase(name, entry.pattern) for name in names)]
