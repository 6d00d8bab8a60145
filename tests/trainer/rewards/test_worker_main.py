from fractions import Fraction

import numpy
import pytest

from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row
from skyrl_train.rewards.worker_main import compute_reward

ROW = Row(prompt=({"role": "user", "content": "?"},), ground_truth="5", environment="mine:task")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


class Fixed(Environment):
    """Returns or raises the outcome that it was constructed with."""

    name = "mine"

    def __init__(self, outcome):
        super().__init__(EnvironmentParams())
        self.outcome = outcome

    def reward(self, completion, row):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def computed(outcome):
    return compute_reward(Fixed(outcome), Completion(text="", token_ids=(), finished=True), ROW)


@pytest.mark.parametrize(
    "value", [1, 0.25, -3.5, Fraction(1, 4), numpy.float32(0.5), numpy.float64(0.5), numpy.int64(2)]
)
def test_every_kind_of_finite_number_is_a_reward(value):
    assert computed(value) == (float(value), None)
    assert type(computed(value)[0]) is float


@pytest.mark.parametrize("value", [numpy.bool_(True), numpy.ones(1), 1j, "1.0", [1.0], None])
def test_a_value_that_only_looks_like_a_number_is_an_error_that_shows_it(value):
    reward, error = computed(value)
    assert reward == 0.0
    assert error.startswith("TypeError: mine:task reward returned ")
    assert f"({type(value).__name__}), not a number" in error


def test_an_error_is_reported_with_its_place():
    reward, error = computed(ZeroDivisionError("division by zero"))
    assert reward == 0.0
    assert error.startswith(
        "ZeroDivisionError: division by zero, raised by the mine:task reward at test_worker_main.py:"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), Unprintable(), MemoryError()])
def test_no_error_is_raised(error):
    assert computed(error)[1].startswith(type(error).__name__)


def test_a_long_message_is_shortened_to_one_line():
    error = computed(ValueError("word\n" * 10_000))[1]
    assert "\n" not in error
    assert len(error) < 450


@pytest.mark.parametrize("value", [1e39, -1e39, float("inf"), 10**400])
def test_a_reward_that_float32_cannot_represent_is_an_error(value):
    reward, error = computed(value)
    assert reward == 0.0
    assert error.startswith(("ValueError: mine:task reward returned", "OverflowError"))
