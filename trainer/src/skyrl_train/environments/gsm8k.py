"""The environment `gsm8k`: rewards a correct final number; its problems come from data files."""

from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import Field

from skyrl_core.errors import PluginLoadError
from skyrl_train.config.extras import install_extra
from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row
from skyrl_train.environments.final_answer import (
    last_number,
    may_be_cut_off,
    parse_answer,
    right_side,
    stated_after_marker,
)


class Gsm8kParams(EnvironmentParams):
    """How the answer is found and compared."""

    extraction: Literal["strict", "flexible"] = Field(
        default="strict",
        description="strict: the number after the last `####`; flexible: or else the last number of the text.",
    )
    latex: bool = Field(
        default=False,
        description="Compare roots and expressions with math-verify; needs the extra skyrl-train[math].",
    )


class Gsm8k(Environment):
    """1.0 for an answer that equals the ground truth as an exact number, else 0.0.

    The ground truth is the text after its last ``####``, or all of it without one.
    """

    name = "gsm8k"
    solved_at = 1.0
    Params: ClassVar[type[EnvironmentParams]] = Gsm8kParams

    def __init__(self, params: EnvironmentParams) -> None:
        super().__init__(params)
        if self.params.latex:
            self.warm_up()  # a missing package is an error before training, not at the first reward

    def warm_up(self) -> None:
        """Import math-verify if ``latex`` is on: importing sympy takes seconds.

        Raises:
            PluginLoadError: ``latex`` is on and math-verify is not installed.
        """
        if not self.params.latex:
            return
        try:
            import math_verify  # noqa: F401 - imported for its effect on the next import
        except ImportError as error:
            raise PluginLoadError(
                f"environment gsm8k: latex = true needs math-verify: {install_extra('math-verify')}, or set "
                "environment.params.latex to false"
            ) from error

    def check_row(self, row: Row) -> str | None:
        """The rule that the ground truth breaks: it must be a number, unless ``latex`` is on."""
        expected = stated_after_marker(row.ground_truth) or row.ground_truth
        if self.params.latex or parse_answer(expected) is not None:
            return None
        return (
            f"the ground truth {expected!r} is not a number: correct the row, or set environment.params.latex "
            "to true for LaTeX answers"
        )

    def reward(self, completion: Completion, row: Row) -> float:
        """1.0 or 0.0; 0.0 for an answer that the token limit may have cut off.

        Raises:
            ValueError: the ground truth is not a number and ``latex`` is off.
        """
        expected = stated_after_marker(row.ground_truth) or row.ground_truth
        gold = parse_answer(expected)
        if gold is None and (problem := self.check_row(row)):
            raise ValueError(problem)
        text = row.answer_start + completion.text
        if may_be_cut_off(text, finished=completion.finished):
            return 0.0
        stated, answer = self._answer(text)
        if gold is not None and answer is not None:
            return float(answer == gold)
        formula = right_side(stated) if self.params.latex else None
        return float(_equal_latex(expected, formula)) if formula else 0.0

    def _answer(self, text: str) -> tuple[str, Fraction | None]:
        """The stated answer as text and, if it is exactly one number, as a number."""
        stated = stated_after_marker(text)
        if stated is not None:
            return stated, parse_answer(stated)
        if self.params.extraction == "strict":
            return "", None
        return text, last_number(text)


def _equal_latex(expected: str, stated: str) -> bool:
    from math_verify import parse, verify

    gold, answer = (parse(f"${text.strip('$. ')}$") for text in (expected, stated))
    return bool(verify(gold, answer))
