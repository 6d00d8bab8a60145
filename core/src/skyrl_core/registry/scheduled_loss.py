"""A loss over a run: rebuilt when a schedule changes its parameters, with the state that it has."""

from collections.abc import Callable, Mapping
from typing import Any

from skyrl_core.contract.policy_loss import Need, PolicyLoss
from skyrl_core.parameters.parameter_plan import ParamPlan, dotted


class ScheduledLoss:
    """The loss of each optimizer step."""

    def __init__(self, plan: ParamPlan[Any], build: Callable[[Any], PolicyLoss]) -> None:
        """``build`` makes the loss of parameters of the plan."""
        self._plan = plan
        self._build = build
        self._numbers = plan.numbers(0)
        self.loss = build(plan.at(0))
        """At the step that was asked for last."""

    @classmethod
    def fixed(cls, loss: PolicyLoss) -> "ScheduledLoss":
        """The same instance at every step."""
        plan = ParamPlan(type(loss.params), loss.params.model_dump(), loss.name)
        return cls(plan, lambda _: loss)

    @property
    def needs(self) -> frozenset[Need]:
        """What the loss reads at any step: a weight that a schedule raises from 0 needs its input one day."""
        return frozenset().union(*(frozenset(self.loss.needs(self._plan.at(step))) for step in self._plan.steps))

    def at(self, step: int) -> PolicyLoss:
        """The loss of optimizer step ``step``: a new instance where a number has changed, with the same state."""
        numbers = self._plan.numbers(step)
        if numbers != self._numbers:
            state = self.loss.state_dict()
            self.loss, self._numbers = self._build(self._plan.at(step)), numbers
            self.loss.load_state_dict(state)
        return self.loss

    def variants(self) -> list[PolicyLoss]:
        """The loss at each step that stands for all, for whoever checks it before the run."""
        return [self._build(self._plan.at(step)) for step in self._plan.steps]

    def numbers(self, step: int) -> Mapping[str, float]:
        """The scheduled parameters of optimizer step ``step``, by dotted path."""
        return {dotted(path): number for path, number in self._plan.numbers(step).items()}
