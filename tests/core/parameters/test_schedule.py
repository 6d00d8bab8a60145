"""Schedules: numbers by hand at and between knots, and invalid schedules."""

import math

import pytest
from pydantic import ValidationError

from skyrl_core.parameters.schedule import checked_steps, is_schedule, number_at, parse_schedule, schedule_fault

LINEAR = {"schedule": "linear", "start": 0.02, "end": 0.0, "steps": 100}


@pytest.mark.parametrize(("step", "number"), [(0, 0.02), (25, 0.015), (50, 0.01), (100, 0.0), (1000, 0.0)])
def test_linear_falls_in_equal_parts_and_stays(step: int, number: float) -> None:
    assert parse_schedule(LINEAR).at(step) == pytest.approx(number, abs=1e-15)


@pytest.mark.parametrize(
    ("step", "number"), [(0, 1.0), (2, 3 - 2 * math.cos(math.pi / 4)), (4, 3.0), (8, 5.0), (9, 5.0)]
)
def test_cosine_is_a_half_wave(step: int, number: float) -> None:
    schedule = parse_schedule({"schedule": "cosine", "start": 1, "end": 5, "steps": 8})
    assert schedule.at(step) == pytest.approx(number, abs=1e-12)


@pytest.mark.parametrize(
    ("interpolation", "numbers"),
    [
        ("linear", [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
        ("step", [1.0, 1.0, 1.0, 1.0, 3.0, 3.0]),
        ("cosine", [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
    ],
)
def test_piecewise_goes_through_its_points(interpolation: str, numbers: list[float]) -> None:
    points = [[2, 1.0], [4, 3.0]]
    schedule = parse_schedule({"schedule": "piecewise", "points": points, "interpolation": interpolation})
    assert [schedule.at(step) for step in range(6)] == pytest.approx(numbers)


def test_the_ends_are_exact() -> None:
    schedule = parse_schedule({"schedule": "linear", "start": 0.1, "end": 0.3, "steps": 3})
    assert (schedule.at(0), schedule.at(3), schedule.at(7)) == (0.1, 0.3, 0.3)


def test_a_constant_and_a_plain_number_are_the_same_at_every_step() -> None:
    assert number_at(parse_schedule({"schedule": "constant", "value": 0.5}), 7) == number_at(0.5, 7) == 0.5


def test_the_checked_steps_show_a_number_that_is_an_integer_only_at_knots() -> None:
    schedule = parse_schedule({"schedule": "linear", "start": 0, "end": 4, "steps": 8})
    assert checked_steps(schedule.knots) == (0, 1, 8)
    assert schedule.at(1) == 0.5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"schedule": "liner", "start": 1, "end": 0, "steps": 2},
            "no schedule is named 'liner'; did you mean 'linear'?",
        ),
        ({"schedule": "linear", "start": 1, "end": 0}, "steps: is required"),
        ({"schedule": "linear", "start": 1, "end": 0, "steps": 0}, "steps: must be > 0"),
        ({"schedule": "linear", "start": 1, "end": math.inf, "steps": 3}, "end: must be a finite number"),
        ({"schedule": "cosine", "start": 1, "end": 0, "steps": 2, "stop": 3}, "stop: unknown parameter"),
        ({"schedule": "piecewise", "points": []}, "points: must have at least one value, not 0"),
        ({"schedule": "piecewise", "points": [[5, 1], [5, 2]]}, "the steps of points must increase, got 5, 5"),
    ],
)
def test_an_invalid_schedule_is_reported_with_the_reason(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        parse_schedule(wrong)
    assert says in schedule_fault(raised.value)


def test_a_mapping_is_a_schedule_by_its_key() -> None:
    assert is_schedule(LINEAR)
    assert not is_schedule({"start": 1})
    assert not is_schedule(0.02)


def test_text_of_each_schedule() -> None:
    assert str(parse_schedule(LINEAR)) == "0.02 to 0 in 100 optimizer steps (linear)"
    assert str(parse_schedule({"schedule": "constant", "value": 2})) == "2"
    assert str(parse_schedule({"schedule": "piecewise", "points": [[0, 1], [9, 2]]})) == (
        "1 at step 0, 2 at step 9 (linear)"
    )
