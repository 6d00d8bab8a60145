"""The axes of a signature chart: their ranges, tick values and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyrl_core.signature.measure import Curve  # imports torch


def ratio_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Choose ticks for a logarithmic axis: powers of 2 or 10 for a wide range, round numbers for a narrow one."""
    if high / low < 4:
        return [(tick, number(tick)) for tick in linear_ticks(low, high, 5)]
    base = 2 if high / low <= 2**10 else 10
    powers = range(math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9) + 1)
    return [(float(base) ** power, f"1/{base**-power}" if power < 0 else f"{base**power}") for power in powers]


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Choose about ``count`` multiples of a round step within the range, ends included."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(size for size in (1, 2, 5, 10) if size * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [float(f"{index * step:.9g}") for index in range(first, last + 1)]


def weight_range(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the smallest and largest weight, extended to 0, or (-1, 1) if every weight is 0.

    Raises:
        ValueError: a weight is not finite.
    """
    weights = [weight for curve in curves for piece in curve.pieces for _, weight in piece]
    if not all(map(math.isfinite, weights)):
        raise ValueError("the weight is not finite everywhere, so it cannot be plotted")
    low, high = min(0.0, *weights), max(0.0, *weights)
    return (low, high) if high - low > 1e-9 else (-1.0, 1.0)


def number(value: float) -> str:
    """Format a number with at most four digits; six if it is close to 1."""
    close = 0 < abs(abs(value) - 1) < 0.01
    return f"{value + 0.0:.{6 if close else 4}g}"


def scaled(value: float, low: float, high: float, size: float, *, log: bool = False) -> float:
    """Map a value to its position on an axis of this size that goes from low to high."""
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) * size


def bounds(curves: Sequence[Curve]) -> list[float]:
    """Return every ratio except 1 at which a curve jumps or bends, in order."""
    return sorted({each.ratio for curve in curves for each in curve.breaks} - {1.0})
