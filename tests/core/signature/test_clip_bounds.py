"""Every jump and bend of a weight is found, and nothing else."""

import math

import pytest

from skyrl_core.signature.clip_bounds import find_breaks

GRID = [math.exp(math.log(1 / 8) + index * math.log(64) / 240) for index in range(241)]


def breaks_of(weight):
    """Find the breaks of a function of the ratio."""
    return find_breaks(lambda x: weight(math.exp(x)), GRID, [weight(ratio) for ratio in GRID])


@pytest.mark.parametrize("at", [0.2001, 0.5, 1.0, 1.2, 1.2345678, 7.9])
def test_a_jump_is_found_with_the_weight_on_both_sides(at: float) -> None:
    [found] = breaks_of(lambda ratio: ratio if ratio < at else -1.0)
    assert found.kind == "jump"
    assert found.ratio == pytest.approx(at, rel=1e-5)
    assert (found.below, found.above) == pytest.approx((at, -1.0), rel=1e-5)


@pytest.mark.parametrize("at", [0.2001, 0.5, 1.0, 5.0])
def test_a_kink_is_found_where_the_slope_changes(at: float) -> None:
    [found] = breaks_of(lambda ratio: min(ratio, at))
    assert found.kind == "kink"
    assert found.ratio == pytest.approx(at, rel=1e-5)
    assert found.below == pytest.approx(at, rel=1e-5)


def test_several_breaks_come_in_order() -> None:
    found = breaks_of(lambda ratio: 0.0 if ratio < 0.8 else min(ratio, 2.0) if ratio < 3 else 0.0)
    assert [(each.kind, each.ratio) for each in found] == [
        ("jump", pytest.approx(0.8)),
        ("kink", pytest.approx(2.0)),
        ("jump", pytest.approx(3.0)),
    ]


@pytest.mark.parametrize(
    "smooth",
    [
        lambda ratio: 0.0,
        lambda ratio: 1.0,
        lambda ratio: ratio,
        lambda ratio: -(ratio**3),
        lambda ratio: math.exp(-((math.log(ratio) / 0.2) ** 2)),
        lambda ratio: ratio / (1 + math.exp(4 * (ratio - 1))),
    ],
)
def test_a_smooth_weight_has_no_breaks(smooth) -> None:
    assert breaks_of(smooth) == ()
