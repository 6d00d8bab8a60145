"""The charts of the report: one for each group of metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from skyrl_train.tracking.chart import Series, line_chart
from skyrl_train.tracking.history import History, Metrics
from skyrl_train.tracking.metric_glossary import by_evaluation_set, describe, format_value, in_order

CURVES_IN_A_CHART = 6
NEGLIGIBLE = {"KL": 1e-3, "Mismatch": 1e-3}
"""Smallest span of a chart's y axis: in nats, where smaller differences are rounding."""


@dataclass(frozen=True)
class LegendEntry:
    """One curve of a chart: metric name, label, last value with unit, meaning."""

    name: str
    label: str
    last: str
    meaning: str


@dataclass(frozen=True)
class Chart:
    """One figure of the report."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]


def draw_charts(history: History) -> list[Chart]:
    """One chart per group of metrics, in the order of the glossary. Metrics without values are left out."""
    trained, sets = _names(history.train), _evaluations_by_set(history)
    evaluated = {name: _names(source) for name, source in sets.items()}
    groups: dict[str, list[tuple[str, Series]]] = {}
    for name in in_order(trained.union(*evaluated.values())):
        entry = describe(name)
        group = groups.setdefault(entry.chart, [])
        if name in trained:
            group.append((name, Series(_short(name, entry.label), _points(history.train, name))))
        for set_name, source in sets.items():
            if name in evaluated[set_name]:
                label = _label(_short(name, entry.label), set_name, is_trained=name in trained)
                group.append((name, Series(label, _points(source, name), sparse=True)))
    return [
        _draw(title, curves[start : start + CURVES_IN_A_CHART], history.last_step)
        for title, curves in groups.items()
        for start in range(0, len(curves), CURVES_IN_A_CHART)
    ]


def _evaluations_by_set(history: History) -> dict[str, dict[int, Metrics]]:
    sets: dict[str, dict[int, Metrics]] = {}
    for step, metrics in history.evaluations.items():
        for name, values in by_evaluation_set(metrics).items():
            sets.setdefault(name, {})[step] = values
    return sets


def _short(name: str, label: str) -> str:
    """The label without the first part of the name, which is the chart's title: ``std`` for ``reward/std``."""
    first, _, rest = name.partition("/")
    return label.removeprefix(f"{first.replace('_', ' ')} ") if rest else label


def _label(label: str, set_name: str, *, is_trained: bool) -> str:
    if set_name:
        return f"{label}, {set_name}"
    return f"{label}, held-out" if is_trained else label


def _names(source: Mapping[int, Metrics]) -> set[str]:
    return {name for metrics in source.values() for name, value in metrics.items() if value is not None}


def _points(source: Mapping[int, Metrics], name: str) -> list[tuple[int, float | None]]:
    return [(step, source[step].get(name)) for step in sorted(source)]


def _draw(title: str, curves: Sequence[tuple[str, Series]], last_step: int) -> Chart:
    unit = describe(curves[0][0]).unit
    legend = tuple(
        LegendEntry(name, series.label, format_value(series.last, unit), describe(name).meaning)
        for name, series in curves
    )
    svg = line_chart([series for _, series in curves], unit, last_step, smallest_span=NEGLIGIBLE.get(title, 0.0))
    return Chart(title, svg, legend)
