"""Generates the tiny model's pretraining corpus: arithmetic problems with answers of mixed quality.

The problems are of the training split. 35 % of the answers are worked step by step, 40 % are a bare ``#### n``, and
25 % are worked with one mistake. A model trained on it can show its work but often does not, which leaves room for
reinforcement learning to improve it.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from skyrl_train.environments.arithmetic_problems import Operation, Problem, problems, worked_solution

WORKED, BARE = 0.35, 0.40
"""Shares of worked and bare answers; the others are worked with one mistake."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt as the chat template renders it, and the answer without the end-of-sequence token."""

    prompt: str
    answer: str


def examples(seed: int) -> Iterator[Example]:
    """Endless examples, the same for the same seed."""
    rng = random.Random(f"tiny corpus/{seed}")
    for problem in problems("train", seed=seed):
        yield Example(prompt=problem.question + "\n", answer=_answer(problem, rng))


def _answer(problem: Problem, rng: random.Random) -> str:
    quality = rng.random()
    if quality < WORKED:
        return problem.solution
    if quality < WORKED + BARE:
        return f"#### {problem.answer}"
    return worked_solution(_with_mistake(problem.operations, rng))


def _with_mistake(operations: tuple[Operation, ...], rng: random.Random) -> tuple[Operation, ...]:
    """The operations with one result slightly wrong; later steps continue from the wrong value."""
    wrong_at = rng.randrange(len(operations))
    difference = rng.choice((-10, -2, -1, 1, 2, 10))
    value, steps = operations[0].left, []
    for index, step in enumerate(operations):
        result = {"+": value + step.right, "-": value - step.right, "*": value * step.right}[step.symbol]
        result = max(result + (difference if index == wrong_at else 0), 0)
        steps.append(replace(step, left=value, result=result))
        value = result
    return tuple(steps)


def sample_text(seed: int, count: int) -> list[str]:
    """The first ``count`` examples as plain text, to train the tokenizer."""
    return [example.prompt + example.answer for example in itertools.islice(examples(seed), count)]
