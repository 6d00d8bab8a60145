"""Intervals by hand, and their coverage on simulated problems."""

import random

import pytest

from skyrl_train.step.confidence import mean_interval, paired_difference, standard_error, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # z² = 3.8415: 0 of 10 gives z² / (10 + z²) as the upper end
        (0, 10, 0.0, 0.27754),
        (10, 10, 0.72246, 1.0),
        # centre (0.8 + 0.19207) / 1.38415, spread 1.95996 sqrt(0.016 + 0.0096037) / 1.38415
        (8, 10, 0.49016, 0.94332),
        (5, 10, 0.23659, 0.76341),
    ],
)
def test_wilson_by_hand(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes / count, count) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("samples", [1, 8])
def test_problems_that_do_not_differ_leave_an_interval_and_an_error(share: float, samples: int) -> None:
    assert mean_interval([share] * 10, samples) == pytest.approx(wilson(share, 10))
    low, high = wilson(share, 10)
    assert standard_error([share] * 10) == pytest.approx((high - low) / 2 / 1.959964)


def test_several_samples_count_as_much_as_they_tell() -> None:
    # Shares of 4 samples: 10 problems at 0 and 10 at 1. The samples of a problem agree, so they are one trial:
    # variance 20 * 0.25 / 19, effective trials 0.25 / (0.26316 / 20) = 19, raised to the 20 problems.
    assert mean_interval([0.0, 1.0] * 10, 4) == pytest.approx(wilson(0.5, 20))
    # Shares 1/4 and 3/4: variance 20 * 0.0625 / 19 = 0.065789, effective trials 0.25 / (0.065789 / 20) = 76.
    assert mean_interval([0.25, 0.75] * 10, 4) == pytest.approx(wilson(0.5, 76))
    # Shares that differ by less than those of independent samples: no more trials than samples.
    assert mean_interval([0.49, 0.51] * 10, 4) == pytest.approx(wilson(0.5, 80))


def test_a_paired_difference_by_hand() -> None:
    # Of 10 problems 3 got better and none worse. With one more of each: 4 better and 1 worse of 12, mean 3/12, mean
    # square 5/12, variance 5/12 - 1/16 = 0.354167, error sqrt(0.354167 / 12) = 0.171796, times 1.959964 = 0.336714.
    change, (low, high) = paired_difference([1.0] * 5 + [0.0] * 5, [1.0] * 8 + [0.0] * 2)
    assert change == pytest.approx(0.3)
    assert (low, high) == pytest.approx((0.25 - 0.336714, 0.25 + 0.336714), abs=1e-6)


def test_equal_answers_of_both_models_leave_an_interval_around_no_change() -> None:
    # mean square 2 / 22, error sqrt(1 / 11 / 22) = 0.064282, times 1.959964 = 0.125991
    change, interval = paired_difference([0.0, 1.0] * 10, [0.0, 1.0] * 10)
    assert change == 0
    assert interval == pytest.approx((-0.125991, 0.125991), abs=1e-6)


@pytest.mark.parametrize(("before", "after", "change"), [(1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 1.0, 1.0)])
def test_a_difference_at_the_edges_is_not_certain(before: float, after: float, change: float) -> None:
    found, (low, high) = paired_difference([before] * 20, [after] * 20)
    assert found == change
    assert high - low > 0.1
    assert -1 <= low <= change <= high <= 1


@pytest.mark.parametrize(("problems", "samples", "share"), [(30, 1, 0.5), (30, 4, 0.95), (100, 8, 0.98)])
def test_the_intervals_contain_the_truth_about_19_times_in_20(problems: int, samples: int, share: float) -> None:
    rng, covered, paired = random.Random(0), 0, 0
    rounds = 400
    for _ in range(rounds):
        skills = [rng.betavariate(2 * share, 2 - 2 * share) for _ in range(problems)]
        before, after = (
            [sum(rng.random() < skill for _ in range(samples)) / samples for skill in skills] for _ in range(2)
        )
        low, high = mean_interval(before, samples)
        covered += low <= share <= high
        low, high = paired_difference(before, after)[1]
        paired += low <= 0 <= high
    assert covered / rounds > 0.89
    assert paired / rounds > 0.92
