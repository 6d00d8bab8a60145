"""The environment `arithmetic`: generated word problems, rewarded for the exact final answer."""

from collections.abc import Iterator
from typing import ClassVar, Self

from pydantic import Field, model_validator

from skyrl_train.environments.arithmetic_problems import MAX_STEPS, problems
from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row, Split


class ArithmeticParams(EnvironmentParams):
    """How hard the problems are."""

    min_steps: int = Field(default=1, ge=1, le=MAX_STEPS, description="Minimum operations of a problem.")
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=MAX_STEPS, description="Maximum operations of a problem.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps ({self.min_steps}) must not exceed max_steps ({self.max_steps})")
        return self


class Arithmetic(Environment):
    """Endless word problems; 1.0 for a finished response that ends in ``#### <answer>``, else 0.0."""

    name = "arithmetic"
    solved_at = 1.0
    Params: ClassVar[type[EnvironmentParams]] = ArithmeticParams

    def rows(self, split: Split, *, seed: int) -> Iterator[Row]:
        """Endless problems of the split; the extra column ``steps`` is the number of operations."""
        steps = {"max_steps": self.params.max_steps, "min_steps": self.params.min_steps}
        for problem in problems(split, seed=seed, **steps):
            yield Row(
                prompt=({"role": "user", "content": problem.question},),
                ground_truth=str(problem.answer),
                environment=self.name,
                extra={"steps": len(problem.operations)},
            )

    def check_row(self, row: Row) -> str | None:
        """The rule that the ground truth breaks: an answer must be able to end with it."""
        expected = row.ground_truth
        if not expected or expected != expected.strip():
            return f"no answer can end with the ground truth {expected!r}: it must be text without spaces at its ends"
        return None

    def reward(self, completion: Completion, row: Row) -> float:
        """1.0 or 0.0; 0.0 for an answer that the token limit cut off, because its last digit may be missing."""
        correct = (row.answer_start + completion.text).strip().endswith(f"#### {row.ground_truth}")
        return float(completion.finished and correct)
