"""Generates word problems of one to four steps from a seed; training and evaluation share none.

A problem is a chain of operations (``36+76-70``) in the form of a short story. A checksum of the chain decides the
split, so no seed, index or wording can leak an evaluation problem into training.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from skyrl_train.environments.environment import Split

EVALUATION_SHARE = 10
"""One in this many chains belongs to evaluation."""

MAX_STEPS = 4
LARGEST_VALUE = 999

_NAMES = ("Ana", "Ben", "Cara", "Dan", "Eva", "Finn", "Gita", "Hugo", "Iris", "Jon", "Kim", "Leo")
_THINGS = ("apples", "coins", "books", "shells", "cards", "stamps", "pens", "eggs")
_ADD = ("{name} buys {n} more.", "{name} finds {n} more.", "A friend gives {name} {n} more.", "Then {n} more arrive.")
_SUBTRACT = ("{name} sells {n}.", "{name} gives away {n}.", "{name} loses {n}.", "Then {n} of them break.")
_MULTIPLY = (
    "Then {name} has {n} times as many.",
    "A trade makes it {n} times as many.",
    "{name} now gets {n} times that number.",
)
_STORIES = {"+": _ADD, "-": _SUBTRACT, "*": _MULTIPLY}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a chain: ``left symbol right = result``."""

    left: int
    symbol: str
    right: int
    result: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A word problem, the operations that solve it and its answer."""

    question: str
    operations: tuple[Operation, ...]

    @property
    def answer(self) -> int:
        return self.operations[-1].result

    @property
    def chain(self) -> str:
        """The arithmetic without the story, such as ``36+76-70``; it decides the split."""
        first = str(self.operations[0].left)
        return first + "".join(f"{step.symbol}{step.right}" for step in self.operations)

    @property
    def split(self) -> Split:
        return "evaluation" if zlib.crc32(self.chain.encode()) % EVALUATION_SHARE == 0 else "train"

    @property
    def solution(self) -> str:
        """The worked answer in the form that the reward expects: one line per step, then ``#### answer``."""
        return worked_solution(self.operations)


def worked_solution(operations: tuple[Operation, ...]) -> str:
    """The steps as lines of text, then ``#### `` and the last result."""
    lines = [f"{step.left}{step.symbol}{step.right}={step.result}" for step in operations]
    return "\n".join([*lines, f"#### {operations[-1].result}"])


def _generate_problem(rng: random.Random, steps: int) -> Problem:
    """A random problem with this many operations. Values stay within 0..999."""
    largest = rng.choice((20, 99))
    value = rng.randint(2, largest)
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    sentences = [f"{name} has {value} {things}."]
    operations = []
    for _ in range(steps):
        operation = _generate_operation(rng, value, largest)
        sentences.append(rng.choice(_STORIES[operation.symbol]).format(name=name, n=operation.right))
        operations.append(operation)
        value = operation.result
    sentences.append(f"How many {things} does {name} have?")
    return Problem(question=" ".join(sentences), operations=tuple(operations))


def _generate_operation(rng: random.Random, value: int, largest: int) -> Operation:
    room = LARGEST_VALUE - value
    feasible = {"+": room >= 1, "-": value >= 2, "*": 2 <= value <= LARGEST_VALUE // 5}
    symbol = rng.choice([symbol for symbol, possible in feasible.items() if possible])
    if symbol == "+":
        right = rng.randint(1, min(largest, room))
        return Operation(left=value, symbol=symbol, right=right, result=value + right)
    if symbol == "-":
        right = rng.randint(1, min(largest, value))
        return Operation(left=value, symbol=symbol, right=right, result=value - right)
    right = rng.randint(2, 5)
    return Operation(left=value, symbol=symbol, right=right, result=value * right)


def problems(split: Split, *, seed: int, max_steps: int = MAX_STEPS, min_steps: int = 1) -> Iterator[Problem]:
    """Endless problems of a split, the same for the same seed; the number of steps is uniform.

    Raises:
        ValueError: not ``1 <= min_steps <= max_steps <= 4``.
    """
    if not 1 <= min_steps <= max_steps <= MAX_STEPS:
        raise ValueError(f"steps must satisfy 1 <= min <= max <= {MAX_STEPS}, got min {min_steps} and max {max_steps}")
    rng = random.Random(f"arithmetic/{split}/{seed}")
    while True:
        steps = rng.randint(min_steps, max_steps)
        problem = _generate_problem(rng, steps)
        while problem.split != split:
            problem = _generate_problem(rng, steps)
        yield problem
