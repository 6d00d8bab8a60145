"""Line charts as inline SVG. They need no script; the report's script adds the values under the pointer.

Not a charting library: those draw with a script, so a page without scripts, a printed page and a preview in a notebook
would show nothing, and a copy of the library in each report would be larger than all charts of a run.
"""

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
CONSTANT = 1e-6
"""Values that differ by less than this share are one value, rounded differently."""
FLAT = 0.1
"""A curve that varies by less than this share of its size is drawn nearly flat; its noise does not fill the frame."""

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


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]


def line_chart(series: Sequence[Series], unit: Unit, last_step: int, *, smallest_span: float = 0.0) -> Markup:
    """One SVG with all curves on the same axes: x is the step, starting at 0, and y has the given unit.

    Args:
        series: the curves, with at least one value.
        unit: the unit of all values.
        last_step: the right end of the x axis.
        smallest_span: the y axis spans at least this much, so that differences that mean nothing look like nothing.
    """
    thinned = [Series(curve.label, _thinned(curve.points), curve.sparse) for curve in series]
    values = [value for curve in thinned for _, value in curve.points if value is not None]
    axis = _axis(min(values), max(values), unit, smallest_span)
    x = _Scale(0, max(last_step, 1), LEFT, WIDTH - LEFT - RIGHT)
    y = _Scale(axis.low, axis.high, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM))
    parts = [_grid(axis, x, y, max(last_step, 1))]
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
    label = ", ".join(f"{curve.label} {format_value(curve.last, unit)}" for curve in series)
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-series="{}">').format(
        WIDTH, HEIGHT, label, data
    )
    return opening + Markup("").join(parts) + Markup("</svg>")


def _grid(axis: _Axis, x: _Scale, y: _Scale, last_step: int) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>')
    rows = [
        line.format(LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 6, y(tick) + 3.5, label)
        for tick, label in zip(axis.ticks, axis.labels, strict=True)
    ]
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


def _axis(low: float, high: float, unit: Unit, smallest_span: float) -> _Axis:
    """The axis for values between ``low`` and ``high``; a constant has one tick, its value, in the middle."""
    if high - low <= CONSTANT * max(abs(low), abs(high)):
        pad = abs(high) or 1.0
        return _Axis(low - pad, high + pad, (high,), (format_value(high, unit),))
    ticks = _ticks(*_widened(low, high, unit, smallest_span))
    return _Axis(ticks[0], ticks[-1], tuple(ticks), tuple(_tick_text(tick, unit) for tick in ticks))


def _widened(low: float, high: float, unit: Unit, smallest_span: float) -> tuple[float, float]:
    """A range around the values in which noise looks small. It does not cross a bound that the values keep."""
    span = max(smallest_span, FLAT if unit == "percent" else FLAT * max(abs(low), abs(high)))
    if span <= high - low:
        return low, high
    bottom, middle = low, (low + high) / 2
    low, high = middle - span / 2, middle + span / 2
    if bottom >= 0 > low:
        return 0.0, span
    if unit == "percent" and high > 1:
        return 1 - span, 1.0
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the range."""
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / size + 1e-9)
    last = math.ceil(high / size - 1e-9)
    return [index * size for index in range(first, last + 1)]


def _tick_text(value: float, unit: Unit) -> str:
    if unit == "percent":
        return f"{round(100 * value, 6):g}%"
    if 0 < abs(value) < 0.001:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
