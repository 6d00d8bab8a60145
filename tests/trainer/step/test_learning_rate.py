"""The learning rate of each optimizer step, by hand."""

import pytest

from skyrl_train.config.schema import OptimizerConfig
from skyrl_train.step.learning_rate import learning_rate


def rates(total, **options):
    """The rates in units of a sixteenth, for a peak of 8 of them."""
    config = OptimizerConfig(learning_rate=0.5, **options)
    return [16 * learning_rate(config, step, total) for step in range(total)]


def test_warm_up_starts_above_zero_and_ends_at_the_peak():
    assert rates(6, warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_linear_falls_in_equal_steps_to_zero_after_the_last_step():
    assert rates(4, schedule="linear") == [8.0, 6.0, 4.0, 2.0]
    assert rates(6, schedule="linear", warmup_steps=2) == [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]


def test_cosine_is_half_in_the_middle_and_symmetric_about_it():
    # 8 (1 + cos(pi k / 4)) / 2 for k = 0..3, with cos(pi / 4) = sqrt(1/2).
    expected = [8.0, 4 + 4 * 0.5**0.5, 4.0, 4 - 4 * 0.5**0.5]
    assert rates(4, schedule="cosine") == pytest.approx(expected)
    assert rates(5, schedule="cosine", warmup_steps=1) == pytest.approx([8.0, *expected])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_it_is_zero_after_the_last_step_and_stays_there(schedule):
    config = OptimizerConfig(learning_rate=0.5, schedule=schedule)
    assert learning_rate(config, 4, 4) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(config, 9, 4) == pytest.approx(0.0, abs=1e-12)


def test_a_run_shorter_than_its_warm_up_only_warms_up():
    assert rates(2, schedule="linear", warmup_steps=4) == [2.0, 4.0]
    assert rates(4, schedule="linear", warmup_steps=4) == [2.0, 4.0, 6.0, 8.0]
