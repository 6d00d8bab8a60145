"""Line charts as inline SVG. They need no script; the report's script adds the values under the pointer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from skyrl_train.tracking.metric_glossary import Unit, format_value
from skyrl_train.tracking.strict_json import encode

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 20
MAX_POINTS = 300

Point = tuple[int, float | None]


@dataclass(frozen=True)
class Series:
    """One curve: (step, value) pairs in order of step. None is a gap; a ``sparse`` curve has a dot at each point."""

    label: str
    points: Sequence[Point]
    sparse: bool = False

    @property
    def last(self) -> float | None:
        """The last value that is not None."""
        return next((value for _, value in reversed(self.points) if value is not None), None)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    length: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * self.length, 1)


def line_chart(series: Sequence[Series], unit: Unit, last_step: int) -> Markup:
    """One SVG with all curves on the same axes: x is the step, starting at 0, and y has the given unit."""
    thinned = [Series(curve.label, _thinned(curve.points), curve.sparse) for curve in series]
    values = [value for curve in thinned for _, value in curve.points if value is not None]
    ticks = _ticks(min(values), max(values))
    x = _Scale(0, max(last_step, 1), LEFT, WIDTH - LEFT - RIGHT)
    y = _Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM))
    parts = [_grid(ticks, unit, x, y, max(last_step, 1))]
    parts += [_curve(curve, index, x, y) for index, curve in enumerate(thinned)]
    data = encode(
        [
            {
                "label": curve.label,
                "points": [[s, x(s), y(v), format_value(v, unit)] for s, v in curve.points if v is not None],
            }
            for curve in thinned
        ]
    ).decode()
    label = ", ".join(curve.label for curve in series)
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-series="{}">').format(
        WIDTH, HEIGHT, label, data
    )
    return opening + Markup("").join(parts) + Markup("</svg>")


def _grid(ticks: Sequence[float], unit: Unit, x: _Scale, y: _Scale, last_step: int) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>')
    rows = [line.format(LEFT, WIDTH - RIGHT, y(t), y(t), LEFT - 6, y(t) + 3.5, _tick_text(t, unit)) for t in ticks]
    step = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    rows.append(step.format(LEFT, HEIGHT - 5, "start", "0"))
    rows.append(step.format(x(last_step), HEIGHT - 5, "end", f"step {last_step}"))
    return Markup("").join(rows)


def _curve(series: Series, index: int, x: _Scale, y: _Scale) -> Markup:
    parts = []
    for known, run in groupby(series.points, key=lambda point: point[1] is not None):
        drawn = [(x(step), y(value)) for step, value in run if value is not None]
        if known and len(drawn) > 1:
            line = Markup('<polyline class="c{}" points="{}"/>')
            parts.append(line.format(index, " ".join(f"{px},{py}" for px, py in drawn)))
        # A line through a single point would be invisible.
        if known and (series.sparse or len(drawn) == 1):
            parts += [Markup('<circle class="c{}" cx="{}" cy="{}" r="3"/>').format(index, px, py) for px, py in drawn]
    return Markup("").join(parts)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points. Neighbours are averaged, because picking single points would show their noise."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return list(points)
    thin: list[Point] = []
    for start in range(0, len(points), size):
        block = points[start : start + size]
        values = [value for _, value in block if value is not None]
        thin.append((block[-1][0], sum(values) / len(values) if values else None))
    return thin


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the range."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / size + 1e-9)
    last = math.ceil(high / size - 1e-9)
    return [index * size for index in range(first, last + 1)]


def _tick_text(value: float, unit: Unit) -> str:
    return f"{100 * value:g}%" if unit == "percent" else f"{value:.3g}"
