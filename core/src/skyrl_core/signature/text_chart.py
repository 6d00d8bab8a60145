"""Draws a signature as text: with braille dots, or in ASCII if the terminal has no braille."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from skyrl_core.signature.axis import bounds, linear_ticks, number, ratio_ticks, scaled, weight_range

if TYPE_CHECKING:
    from skyrl_core.signature.measure import Curve  # imports torch

HEIGHT = 17
"""Rows of the plot, without its axis."""
_LEFT, _RIGHT = 8, 11  # columns for the tick labels and for the labels of the curves
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of each dot, by row and column of a cell


class Glyphs(NamedTuple):
    """The characters of a chart, and the dots that one cell holds."""

    frame: str
    """Vertical axis, its ticks, horizontal axis, its ticks, corner."""
    zero: str
    one: str
    bound: str
    dots: tuple[int, int]


BRAILLE = Glyphs("│┤─┴└", "┈", "│", "┊", (2, 4))
ASCII = Glyphs("|+-++", ".", "|", ":", (1, 1))


def chart(curves: Sequence[Curve], x_label: str, width: int, *, ascii_only: bool) -> list[str]:
    """Draw the weight of each curve over the ratio, on a logarithmic axis, at most ``width`` wide.

    Raises:
        ValueError: a weight is not finite.
    """
    glyphs = ASCII if ascii_only else BRAILLE
    plot = _Plot(curves, width - _LEFT - _RIGHT, glyphs)
    for curve in curves:
        plot.draw(curve)
    rows = plot.rows()
    names = plot.names()
    ticks = {plot.row(tick): number(tick) for tick in linear_ticks(plot.low, plot.high, 8)}
    lines = [
        f"{ticks.get(index, ''):>{_LEFT - 2}} {glyphs.frame[1 if index in ticks else 0]}{row} {names.get(index, '')}"
        for index, row in enumerate(rows)
    ]
    lines += _ratio_axis(plot, glyphs)
    lines.append(" " * _LEFT + x_label.center(plot.width))
    return [line.rstrip() for line in lines]


def _ratio_axis(plot: _Plot, glyphs: Glyphs) -> list[str]:
    ticks = {plot.column(value): label for value, label in ratio_ticks(plot.left, plot.right)}
    marks = "".join(glyphs.frame[3] if column in ticks else glyphs.frame[2] for column in range(plot.width))
    labels = [" "] * (_LEFT + plot.width + _RIGHT)
    for column, label in ticks.items():
        start = _LEFT + column - len(label) // 2
        labels[start : start + len(label)] = label
    return [" " * (_LEFT - 1) + glyphs.frame[4] + marks, "".join(labels)]


class _Plot:
    """The cells of a chart: each shows dots of curves or a guide line."""

    def __init__(self, curves: Sequence[Curve], width: int, glyphs: Glyphs) -> None:
        self.curves, self.width, self.glyphs = curves, width, glyphs
        self.left, self.right = curves[0].ratios[0], curves[0].ratios[-1]
        self.low, self.high = weight_range(curves)
        self.across, self.down = width * glyphs.dots[0], HEIGHT * glyphs.dots[1]
        self.dots: dict[tuple[int, int], str] = {}

    def x(self, ratio: float) -> float:
        """Return the column in dots, not rounded."""
        return scaled(ratio, self.left, self.right, self.across - 1, log=True)

    def y(self, weight: float) -> float:
        """Return the row in dots from the top, not rounded."""
        return scaled(weight, self.high, self.low, self.down - 1)

    def column(self, ratio: float) -> int:
        """Return the column in cells."""
        return round(self.x(ratio)) // self.glyphs.dots[0]

    def row(self, weight: float) -> int:
        """Return the row in cells."""
        return round(self.y(weight)) // self.glyphs.dots[1]

    def draw(self, curve: Curve) -> None:
        """Set the dots of a curve, in lines from point to point."""
        for piece in curve.pieces:
            for (ratio, weight), (next_ratio, next_weight) in pairwise(piece):
                self._line(self.x(ratio), self.y(weight), self.x(next_ratio), self.y(next_weight), curve.advantage)

    def _line(self, x: float, y: float, to_x: float, to_y: float, advantage: float) -> None:
        steps = max(1, round(abs(to_x - x)), round(abs(to_y - y)))
        for step in range(steps + 1):
            at = round(x + (to_x - x) * step / steps), round(y + (to_y - y) * step / steps)
            mark = "+" if advantage > 0 else "o"
            self.dots[at] = mark if self.dots.get(at, mark) == mark else "*"

    def rows(self) -> list[str]:
        """Render the cells as text."""
        guides = {self.column(ratio): self.glyphs.bound for ratio in bounds(self.curves)}
        guides |= {self.column(1.0): self.glyphs.one} if self.left <= 1 <= self.right else {}
        zero = self.row(0.0)
        return [
            "".join(
                self._cell(column, row) or guides.get(column) or (self.glyphs.zero if row == zero else " ")
                for column in range(self.width)
            )
            for row in range(HEIGHT)
        ]

    def _cell(self, column: int, row: int) -> str:
        across, down = self.glyphs.dots
        if (across, down) == (1, 1):
            return self.dots.get((column, row), "")
        bits = sum(
            _DOTS[dy][dx] for dy in range(down) for dx in range(across)
            if (column * across + dx, row * down + dy) in self.dots
        )  # fmt: skip
        return chr(_BRAILLE + bits) if bits else ""

    def names(self) -> dict[int, str]:
        """Return the labels by row: at the end of each curve, or at its peak if both end in the same row."""
        rows = [self.row(curve.weights[-1]) for curve in self.curves]
        if len(set(rows)) < len(rows):
            rows = [self.row(max(curve.weights, key=abs)) for curve in self.curves]
        named: dict[int, list[str]] = {}
        for row, curve in zip(rows, self.curves, strict=True):
            named.setdefault(row, []).append(f"{curve.advantage:+g}")
        return {row: "A = " + ", ".join(signs) for row, signs in named.items()}
