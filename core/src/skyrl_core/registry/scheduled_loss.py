"""A loss over a run: rebuilt with its state when a schedule changes its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from skyrl_core.contract.policy_loss import Need, PolicyLoss
from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters.parameter_plan import ParamPlan, dotted


class ScheduledLoss:
    """The loss of each optimizer step."""

    def __init__(self, plan: ParamPlan[Any], build: Callable[[Any], PolicyLoss]) -> None:
        """``build`` makes the loss from parameters of the plan."""
        self._plan = plan
        self._build = build
        self._numbers = plan.numbers(0)
        self.loss = build(plan.at(0))
        """The loss of the latest step passed to ``at``."""

    @classmethod
    def fixed(cls, loss: PolicyLoss) -> "ScheduledLoss":
        """The same instance at every step."""
        plan = ParamPlan(type(loss.params), loss.params.model_dump(), loss.name)
        return cls(plan, lambda _: loss)

    @property
    def needs(self) -> frozenset[Need]:
        """The inputs that the loss reads at any step: a schedule may raise the weight of a term from 0."""
        return frozenset().union(*(frozenset(self.loss.needs(self._plan.at(step))) for step in self._plan.steps))

    def at(self, step: int) -> PolicyLoss:
        """The loss of optimizer step ``step``: a new instance with the same state if a number has changed."""
        numbers = self._plan.numbers(step)
        if numbers != self._numbers:
            state = self.loss.state_dict()
            self.loss, self._numbers = self._build(self._plan.at(step)), numbers
            self.loss.load_state_dict(state)
        return self.loss

    def variants(self) -> list[PolicyLoss]:
        """The loss at each representative step, for checks before the run."""
        return [self._build(self._plan.at(step)) for step in self._plan.steps]

    def check_reads(self) -> None:
        """Reject parameters that a loss without a schema never read. Call it after the loss was checked or used.

        Raises:
            InvalidParamsError: lists them, each with the nearest name that was read.
        """
        if problems := self._plan.unread():
            raise InvalidParamsError(
                f"loss {self.loss.name!r} ignores parameters: correct their names or "
                "remove them; if the loss reads them only later, read them in its constructor",
                problems,
            )

    def numbers(self, step: int) -> Mapping[str, float]:
        """The scheduled parameters of optimizer step ``step``, by dotted path."""
        return {dotted(path): number for path, number in self._plan.numbers(step).items()}
