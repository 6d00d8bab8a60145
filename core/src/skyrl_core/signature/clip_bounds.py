"""Finds the clip bounds of a loss by measurement: the ratios at which the weight jumps or bends."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

# Halvings of a grid interval: 2^-20 of 0.02 is 2e-8. The weight on either side of a break is measured a hundred times
# as far away, over which a smooth weight changes by a fraction of 2e-6.
_HALVINGS, _GAP, _SLOPE_STEP = 20, 1e-6, 1e-4
# A larger change is a break: as a fraction of the largest weight, and of that per unit of log-ratio.
_JUMP, _KINK = 1e-4, 0.05


class Break(NamedTuple):
    """A ratio at which the weight jumps, or its slope does."""

    ratio: float
    kind: Literal["jump", "kink"]
    below: float
    """The weight just below the ratio."""
    above: float
    """The weight just above it."""


def find_breaks(
    weight: Callable[[float], float], ratios: Sequence[float], weights: Sequence[float]
) -> tuple[Break, ...]:
    """Find where a weight jumps or bends: at most once per grid interval, and only inside the grid.

    Args:
        weight: a function of the log-ratio.
        ratios: the grid, equally spaced in log-ratio.
        weights: the weight on the grid.
    """
    scale = max(map(abs, weights))
    bends = [abs(a - 2 * b + c) for a, b, c in zip(weights, weights[1:], weights[2:], strict=False)]
    found: list[Break] = []
    for index, bend in enumerate(bends):
        before, after = bends[index - 1] if index else 0.0, bends[index + 1] if index + 1 < len(bends) else 0.0
        if bend > 1e-9 * scale and bend >= before and bend >= after:  # false for NaN
            at = _refined(weight, *(math.log(ratio) for ratio in ratios[index : index + 3]))
            new = _classified(weight, at, scale)
            if new and not any(math.isclose(new.ratio, old.ratio, rel_tol=1e-5) for old in found):
                found.append(new)
    return tuple(found)


def _refined(weight: Callable[[float], float], left: float, middle: float, right: float) -> float:
    """Return the point where the second difference stays largest as the grid is refined."""
    points = [(x, weight(x)) for x in (left, middle, right)]
    for _ in range(_HALVINGS):
        between = [(x, weight(x)) for x in ((points[0][0] + points[1][0]) / 2, (points[1][0] + points[2][0]) / 2)]
        fine = [points[0], between[0], points[1], between[1], points[2]]
        points = max(
            (fine[start : start + 3] for start in range(3)), key=lambda p: abs(p[0][1] - 2 * p[1][1] + p[2][1])
        )
    return points[1][0]


def _classified(weight: Callable[[float], float], at: float, scale: float) -> Break | None:
    below, above = weight(at - _GAP), weight(at + _GAP)
    ratio = float(f"{math.exp(at):.6g}")
    if abs(above - below) > _JUMP * scale:
        return Break(ratio, "jump", below, above)
    slopes = (
        (below - weight(at - _GAP - _SLOPE_STEP)) / _SLOPE_STEP,
        (weight(at + _GAP + _SLOPE_STEP) - above) / _SLOPE_STEP,
    )
    return Break(ratio, "kink", below, above) if abs(slopes[1] - slopes[0]) > _KINK * scale else None
