import itertools

import pytest

from skyrl_core.errors import InvalidParamsError
from skyrl_train.environments.arithmetic import Arithmetic, ArithmeticParams
from skyrl_train.environments.environment import Completion
from skyrl_train.environments.load_environment import load_environment


@pytest.fixture
def environment():
    return Arithmetic(ArithmeticParams())


def first_row(environment, split="train", seed=0):
    return next(environment.rows(split, seed=seed))


def reward(environment, row, text, *, finished=True):
    return environment.reward(Completion(text=text, token_ids=(), finished=finished), row)


def test_the_splits_share_no_prompt(environment):
    def prompts(split, count):
        return {row.prompt[0]["content"] for row in itertools.islice(environment.rows(split, seed=3), count)}

    train, evaluation = prompts("train", 10_000), prompts("evaluation", 3_000)
    assert len(train) > 9_000
    assert len(evaluation) > 2_500
    assert not train & evaluation


def test_rows_name_the_environment_the_answer_and_the_number_of_steps(environment):
    row = first_row(environment)
    assert row.environment == "arithmetic"
    assert row.ground_truth.isdigit()
    assert row.prompt[0]["role"] == "user"
    assert 1 <= row.extra["steps"] <= 4


def test_the_parameters_set_the_number_of_steps():
    environment = Arithmetic(ArithmeticParams(min_steps=3, max_steps=3))
    assert {row.extra["steps"] for row in itertools.islice(environment.rows("train", seed=0), 50)} == {3}


def test_the_right_answer_is_rewarded(environment):
    row = first_row(environment)
    assert reward(environment, row, f"#### {row.ground_truth}") == 1.0
    assert reward(environment, row, f"1+1=2\n#### {row.ground_truth}\n") == 1.0


def test_any_other_text_is_not_rewarded(environment):
    row = first_row(environment)
    answer = int(row.ground_truth)
    for text in ("", str(answer), f"#### {answer + 1}", f"#### {answer}0", f"#### 1{answer}", f"#### {answer} apples"):
        assert reward(environment, row, text) == 0.0


def test_an_answer_that_was_cut_off_is_not_rewarded(environment):
    row = first_row(environment)
    assert reward(environment, row, f"#### {row.ground_truth}", finished=False) == 0.0


@pytest.mark.parametrize("params", [{"max_steps": 5}, {"min_steps": 0}, {"min_steps": 3, "max_steps": 2}])
def test_impossible_numbers_of_steps_are_an_error(params):
    with pytest.raises(InvalidParamsError, match="steps"):
        load_environment("arithmetic", params)
