import itertools
import re

from skyrl_train.environments.arithmetic_problems import Problem, problems
from skyrl_train.tiny_model.corpus import BARE, WORKED, examples

COUNT = 4000


def problems_and_examples():
    """Each problem with its example: the corpus uses the problems of the training split in order."""
    return list(itertools.islice(zip(problems("train", seed=0), examples(0), strict=False), COUNT))


def quality(problem: Problem, answer: str) -> str:
    if answer == problem.solution:
        return "worked"
    return "bare" if re.fullmatch(r"#### \d+", answer) else "mistake"


def test_answers_have_the_documented_mix_of_qualities():
    kinds = [quality(problem, example.answer) for problem, example in problems_and_examples()]
    tolerance = 5 * (0.25 / COUNT) ** 0.5
    assert abs(kinds.count("worked") / COUNT - WORKED) < tolerance
    assert abs(kinds.count("bare") / COUNT - BARE) < tolerance


def test_bare_answers_are_right_and_mistakes_keep_the_form():
    for problem, example in problems_and_examples():
        kind = quality(problem, example.answer)
        if kind == "bare":
            assert example.answer == f"#### {problem.answer}"
        if kind == "mistake":
            lines = example.answer.split("\n")
            assert len(lines) == len(problem.operations) + 1
            assert lines[-1] == f"#### {lines[-2].split('=')[1]}"


def test_prompts_hold_only_the_question():
    for problem, example in problems_and_examples()[:50]:
        assert example.prompt == problem.question + "\n"
