"""The warm-up corpus of the tiny model: arithmetic problems of the training split with answers of mixed quality.

35 % of the answers are worked step by step, 40 % state a bare ``#### n`` and 25 % are worked with one slip. The model
that learns from it knows how to show its work but often does not: this is the headroom that reinforcement learning
then uses.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from skyrl_train.environments.arithmetic_problems import Operation, Problem, problems, worked_solution

WORKED, BARE = 0.35, 0.40
"""Shares of worked and of bare answers; the rest is worked with one slip."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt as the chat template renders it, and the answer without the end-of-sequence token."""

    prompt: str
    answer: str


def examples(seed: int) -> Iterator[Example]:
    """Examples 0, 1, 2, ... without end. The same seed gives the same corpus."""
    rng = random.Random(f"tiny corpus/{seed}")
    for problem in problems("train", seed=seed):
        yield Example(prompt=problem.question + "\n", answer=_answer(problem, rng))


def _answer(problem: Problem, rng: random.Random) -> str:
    quality = rng.random()
    if quality < WORKED:
        return problem.solution
    if quality < WORKED + BARE:
        return f"#### {problem.answer}"
    return worked_solution(_with_slip(problem.operations, rng))


def _with_slip(operations: tuple[Operation, ...], rng: random.Random) -> tuple[Operation, ...]:
    """One result is off by a little; the later steps go on from the wrong value."""
    wrong_at = rng.randrange(len(operations))
    slip = rng.choice((-10, -2, -1, 1, 2, 10))
    value, steps = operations[0].left, []
    for index, step in enumerate(operations):
        result = {"+": value + step.right, "-": value - step.right, "*": value * step.right}[step.symbol]
        result = max(result + (slip if index == wrong_at else 0), 0)
        steps.append(replace(step, left=value, result=result))
        value = result
    return tuple(steps)


def sample_text(seed: int, count: int) -> list[str]:
    """The first examples as plain text: what the tokenizer is trained on."""
    return [example.prompt + example.answer for example in itertools.islice(examples(seed), count)]
