"""Confidence intervals of shares and of their differences, valid near 0 and 1 and for few problems.

The problem is the unit: samples of one problem are correlated, so more of them tell less than more problems.
"""

import math
from collections.abc import Sequence

Z95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""

Interval = tuple[float, float]


def wilson(share: float, count: float) -> Interval:
    """The 95 % interval of a share of successes among ``count`` trials: E. B. Wilson, JASA 22 (1927).

    Unlike share ± 1.96 standard errors it is valid near 0 and 1, where the estimated error vanishes.
    """
    square = Z95 * Z95 / count
    centre = (share + square / 2) / (1 + square)
    spread = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(centre - spread, 0.0), min(centre + spread, 1.0)


def standard_error(shares: Sequence[float]) -> float:
    """The standard error of the mean over problems; if they do not vary, that of Wilson's interval, which is not 0."""
    count, mean = len(shares), sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / max(count - 1, 1)
    if variance > 0:
        return math.sqrt(variance / count)
    low, high = wilson(mean, count)
    return (high - low) / (2 * Z95)


def mean_interval(shares: Sequence[float], samples: int) -> Interval:
    """The 95 % interval of the mean share of solved samples: Wilson's, with the effective number of trials.

    That is the number of independent trials with the observed error of the mean: at least the problems, at most their
    samples. E. L. Korn and B. I. Graubard, Survey Methodology 24 (1998), do the same with another interval.

    Args:
        shares: of solved samples, of each problem.
        samples: of each problem.
    """
    count, mean = len(shares), sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / max(count - 1, 1)
    effective = mean * (1 - mean) / (variance / count) if variance > 0 else 0.0
    return wilson(mean, min(max(effective, count), count * samples))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, Interval]:
    """The change of the mean share on the same problems, and its 95 % interval.

    Adds one problem that got better and one that got worse, so that the interval has a width even if none or all
    problems changed: D. G. Bonett and R. M. Price, British Journal of Mathematical and Statistical Psychology 65
    (2012).
    """
    differences = [last - first for first, last in zip(before, after, strict=True)]
    count, total = len(differences) + 2, sum(differences)
    mean = total / count
    variance = (sum(difference * difference for difference in differences) + 2) / count - mean * mean
    spread = Z95 * math.sqrt(variance / count)
    return total / len(differences), (max(mean - spread, -1.0), min(mean + spread, 1.0))
