"""Draws a signature as SVG, readable on light and dark pages; equal numbers give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from skyrl_core.signature.axis import bounds, linear_ticks, number, ratio_ticks, scaled, weight_range

if TYPE_CHECKING:
    from skyrl_core.signature.measure import Curve, Signature  # imports torch

WIDTH, HEIGHT = 640, 340
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 44, 76, 52  # margins of the plot
_ACROSS, _DOWN = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_MINUS = "\N{MINUS SIGN}"
_LINE = 15  # pixels between two lines of text

# The picture has a background, because the page may be light while the system is dark, or the reverse.
_STYLE = """
  svg { --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --grid: #e4e8ec; --plus: #0969da; --minus: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --grid: #262c36; --plus: #58a6ff; --minus: #f0883e }
  }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--faint) }
  .paper { fill: var(--paper) }
  .title { font-size: 14px; font-weight: 600; fill: var(--ink) }
  .label { fill: var(--ink) }
  .grid { stroke: var(--grid) }
  .axis { stroke: var(--faint) }
  .bound { stroke: var(--faint); stroke-dasharray: 2 4 }
  .curve { fill: none; stroke-linejoin: round }
  path.plus { stroke: var(--plus); stroke-width: 3 }
  path.minus { stroke: var(--minus); stroke-width: 1.75 }
  path.selected { stroke-dasharray: 6 4; stroke-width: 1.5 }
  text.plus { fill: var(--plus); font-weight: 600 }
  text.minus { fill: var(--minus); font-weight: 600 }
"""


def svg(signature: Signature, title: str, x_label: str) -> str:
    """Draw the signature as a standalone SVG document.

    Raises:
        ValueError: a weight is not finite.
    """
    axes = _Axes((*signature.curves, *signature.singled_out))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img">',
        f"<title>{escape(title)}: weight of a token in the update over its {escape(x_label)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        _text(_LEFT, 22, title, "title"),
        *_frame(axes, x_label),
        *(_path(curve, axes) for curve in signature.curves),
        *(_path(curve, axes, "selected") for curve in signature.singled_out),
        *_names(signature, axes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axes:
    """Maps ratios and weights to pixels."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.curves = curves
        self.left, self.right = curves[0].ratios[0], curves[0].ratios[-1]
        low, high = weight_range(curves)
        self.low, self.high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def x(self, ratio: float) -> float:
        return _LEFT + scaled(ratio, self.left, self.right, _ACROSS, log=True)

    def y(self, weight: float) -> float:
        return _TOP + scaled(weight, self.high, self.low, _DOWN)


def _frame(axes: _Axes, x_label: str) -> Iterator[str]:
    for value, label in ratio_ticks(axes.left, axes.right):
        yield _line("axis" if value == 1 else "grid", axes.x(value), _TOP, axes.x(value), _TOP + _DOWN)
        yield _text(axes.x(value), _TOP + _DOWN + 18, label, anchor="middle")
    for tick in linear_ticks(axes.low, axes.high, 7):
        yield _line("axis" if tick == 0 else "grid", _LEFT, axes.y(tick), _LEFT + _ACROSS, axes.y(tick))
        yield _text(_LEFT - 8, axes.y(tick) + 4, _minus(number(tick)), anchor="end")
    for ratio in bounds(axes.curves):
        yield _line("bound", axes.x(ratio), _TOP, axes.x(ratio), _TOP + _DOWN)
        yield _text(axes.x(ratio), _TOP - 5, number(ratio), anchor="middle")
    yield _text(_LEFT + _ACROSS / 2, HEIGHT - 12, f"{x_label} (log scale)", "label", anchor="middle")
    middle = f"{_TOP + _DOWN / 2:.1f}"
    yield (
        f'<text class="label" text-anchor="middle" transform="translate(16 {middle}) rotate(-90)">'
        f"weight {_MINUS}∂L / ∂log π</text>"
    )


def _path(curve: Curve, axes: _Axes, extra: str = "") -> str:
    commands = []
    for piece in curve.pieces:
        points = [f"{axes.x(ratio):.1f} {axes.y(weight):.1f}" for ratio, weight in piece]
        commands.append("M" + " L".join(points))
    return f'<path class="{" ".join(("curve", _sign(curve), extra)).strip()}" d="{" ".join(commands)}"/>'


def _names(signature: Signature, axes: _Axes) -> Iterator[str]:
    """Label each curve at its right end; if two end together, the labels keep their order and do not overlap."""
    curves = sorted(signature.curves, key=lambda curve: (-curve.weights[-1], -max(curve.weights)))
    heights = [axes.y(curve.weights[-1]) + 4 for curve in curves]
    if heights[1] - heights[0] < _LINE:
        middle = (heights[0] + heights[1]) / 2
        heights = [middle - _LINE / 2, middle + _LINE / 2]
    for curve, height in zip(curves, heights, strict=True):
        yield _text(_LEFT + _ACROSS + 8, height, _minus(f"A = {curve.advantage:+g}"), _sign(curve))
    if signature.singled_out:
        yield _text(_LEFT + _ACROSS, 22, "dashed: a token that the loss selects", anchor="end")


def _minus(text: str) -> str:
    return text.replace("-", _MINUS)


def _sign(curve: Curve) -> str:
    return "plus" if curve.advantage > 0 else "minus"


def _line(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": "" if anchor == "start" else anchor}
    given = " ".join(f'{name}="{value}"' for name, value in attributes.items() if value)
    return f"<text {given}>{escape(text)}</text>"
