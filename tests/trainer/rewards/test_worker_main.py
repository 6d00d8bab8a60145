import asyncio
import math
from fractions import Fraction

import numpy
import pytest

from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.worker_main import Setup, await_reward, compute_reward

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


def computed(outcome, weights=None, solved_at=None):
    environment = Fixed(outcome)
    environment.solved_at = solved_at
    return compute_reward(environment, Completion(text="", token_ids=(), finished=True), ROW, weights)


def error_of(outcome, weights=None):
    score = computed(outcome, weights)
    assert (score.reward, score.solved, dict(score.parts)) == (None, None, {})
    return score.error


@pytest.mark.parametrize(
    "value", [1, 0.25, -3.5, Fraction(1, 4), numpy.float32(0.5), numpy.float64(0.5), numpy.int64(2)]
)
def test_every_kind_of_finite_number_is_a_reward(value):
    assert computed(value) == Score(reward=float(value))
    assert type(computed(value).reward) is float


@pytest.mark.parametrize("value", [numpy.bool_(True), numpy.ones(1), 1j, "1.0", [1.0]])
def test_a_value_that_only_looks_like_a_number_is_an_error_that_shows_it(value):
    error = error_of(value)
    assert error.startswith("TypeError: mine:task reward returned ")
    assert f"({type(value).__name__}), not a number" in error


def test_an_error_is_reported_with_its_place():
    error = error_of(ZeroDivisionError("division by zero"))
    assert error.startswith(
        "ZeroDivisionError: division by zero, raised by the mine:task reward at test_worker_main.py:"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), Unprintable(), MemoryError()])
def test_no_error_is_raised(error):
    assert error_of(error).startswith(type(error).__name__)


def test_a_long_message_is_shortened_to_one_line():
    error = error_of(ValueError("word\n" * 10_000))
    assert "\n" not in error
    assert len(error) < 450


@pytest.mark.parametrize("value", [1e39, -1e39, float("inf"), 10**400])
def test_a_reward_that_float32_cannot_represent_is_an_error(value):
    error = error_of(value)
    assert error.startswith(("ValueError: mine:task reward returned", "OverflowError"))


def test_none_is_no_verdict_and_no_error():
    assert computed(None) == Score()
    assert computed({"format": 1.0, "judge": None}) == Score()


def test_named_rewards_are_added_with_their_weights():
    assert computed({"format": 0.5, "judge": 3}, {"judge": 0.25}) == Score(
        reward=1.25, parts={"format": 0.5, "judge": 3.0}
    )
    assert computed({"format": 0.5, "judge": 3}, {"judge": 0.0}).reward == 0.5


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({}, "TypeError: mine:task reward returned {}: it must map names to numbers"),
        ({1: 1.0}, "TypeError: mine:task reward returned {1: 1.0}: it must map names to numbers"),
        ({"format": "1"}, "TypeError: mine:task reward 'format' returned '1' (str), not a number"),
        ({"format": math.nan}, "ValueError: mine:task reward 'format' returned nan, not a finite number in float32"),
    ],
)
def test_wrong_named_rewards_are_errors(outcome, message):
    assert error_of(outcome) == message


def test_a_weight_without_a_reward_names_the_nearest():
    message = "environment.weights names 'jugde', which the mine:task reward does not return; did you mean judge?"
    assert error_of({"format": 1.0, "judge": 1.0}, {"jugde": 1.0}) == f"ValueError: {message}"


def test_the_environment_says_what_solves_a_problem_up_to_rounding():
    assert computed(1.0).solved is None
    assert computed(0.1 + 0.2, solved_at=0.3).solved is True
    assert computed(0.3 - 1e-9, solved_at=0.3).solved is True
    assert computed(0.29, solved_at=0.3).solved is False


@pytest.mark.parametrize("outcome", ["1.0", {}, 1e39])
def test_an_awaited_value_that_is_no_reward_has_the_error_of_any_other(outcome):
    class Awaited(Fixed):
        async def reward(self, completion, row):
            return self.outcome

    setup = Setup(environments=b"", script=None, module=None, deadline=60.0)
    score = asyncio.run(await_reward(Awaited(outcome), Completion(text="", token_ids=(), finished=True), ROW, setup))
    assert score == computed(outcome)
    assert score.error is not None
