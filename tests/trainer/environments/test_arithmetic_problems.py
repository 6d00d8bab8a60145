import itertools
import operator

import pytest

from skyrl_train.environments.arithmetic_problems import LARGEST_VALUE, problems

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def first(split, count, **settings):
    return list(itertools.islice(problems(split, **settings), count))


def test_the_splits_share_no_chain_for_any_seeds():
    train = {problem.chain for seed in range(4) for problem in first("train", 3000, seed=seed)}
    evaluation = {problem.chain for seed in range(4) for problem in first("evaluation", 1000, seed=seed)}
    assert len(train) > 5000
    assert len(evaluation) > 1000
    assert not train & evaluation


def test_every_chain_is_correct_and_stays_in_range():
    for problem in first("train", 2000, seed=5):
        value = problem.operations[0].left
        for step in problem.operations:
            assert step.left == value
            value = APPLY[step.symbol](step.left, step.right)
            assert step.result == value
            assert 0 <= value <= LARGEST_VALUE
        assert problem.answer == value


def test_equal_seeds_give_equal_problems_and_different_seeds_different_ones():
    assert first("train", 50, seed=1) == first("train", 50, seed=1)
    assert first("train", 50, seed=1) != first("train", 50, seed=2)


def test_the_number_of_steps_stays_within_the_bounds_and_reaches_both():
    assert {len(p.operations) for p in first("train", 300, seed=0, min_steps=2, max_steps=3)} == {2, 3}


@pytest.mark.parametrize(("low", "high"), [(0, 2), (3, 2), (1, 5)])
def test_impossible_bounds_are_an_error(low, high):
    with pytest.raises(ValueError, match="1 <= min <= max <= 4"):
        next(problems("train", seed=0, min_steps=low, max_steps=high))
