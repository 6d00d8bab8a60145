"""A loss over a run: rebuilt with its state when a schedule changes its parameters. Guards each call of its code."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from skyrl_core.contract.policy_loss import Need, PolicyLoss
from skyrl_core.discovery.plugin_call import Guard, PluginCall
from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters.parameter_plan import ParamPlan, dotted

State = dict[str, float]


class ScheduledLoss:
    """The loss of each optimizer step.

    Every method that calls the loss raises PluginError, with the optimizer step, if the code of the loss fails.
    """

    def __init__(self, plan: ParamPlan[Any], build: Callable[[Any], PolicyLoss], guard: Guard) -> None:
        """``build`` makes the loss from parameters of the plan."""
        self._plan = plan
        self._build = build
        self._guard = guard
        self._numbers = plan.numbers(0)
        self.loss = build(plan.at(0))
        """The loss of the latest step passed to ``at``."""

    @classmethod
    def fixed(cls, loss: PolicyLoss) -> "ScheduledLoss":
        """The same instance at every step."""
        plan = ParamPlan(type(loss.params), loss.params.model_dump(), loss.name)
        guard = Guard(f"policy loss {loss.name or type(loss).__name__!r}", type(loss).__module__)
        return cls(plan, lambda _: loss, guard)

    def calling(self, method: str, step: int | None = None) -> PluginCall:
        """The context of a call of a method of the loss, at an optimizer step counted from 0."""
        return self._guard.calling(method, "" if step is None else f"optimizer step {step + 1}")

    @property
    def needs(self) -> frozenset[Need]:
        """The inputs that the loss reads at any step: a schedule may raise the weight of a term from 0."""
        with self.calling("needs"):
            return frozenset().union(*(frozenset(self.loss.needs(self._plan.at(step))) for step in self._plan.steps))

    def at(self, step: int) -> PolicyLoss:
        """The loss of optimizer step ``step``: a new instance with the same state if a number has changed."""
        numbers = self._plan.numbers(step)
        if numbers != self._numbers:
            state = self.state(step)
            self.loss, self._numbers = self._build(self._plan.at(step)), numbers
            with self.calling("load_state_dict", step):
                self.loss.load_state_dict(state)
        return self.loss

    def state(self, step: int) -> State:
        """A copy of the numbers that the loss keeps, for a checkpoint.

        Raises:
            PluginError: ``state_dict`` fails, or returns anything but numbers by name.
        """
        with self.calling("state_dict", step):
            state = self.loss.state_dict()
            if not isinstance(state, Mapping):
                raise TypeError(f"it returned {type(state).__name__} instead of a dict of numbers")
            for name, value in state.items():
                if not isinstance(name, str) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise TypeError(
                        f"{name!r} is {type(value).__name__}: keep only finite numbers, such as .item() of a tensor"
                    )
            return dict(state)

    def adapts(self, step: int = 0) -> bool:
        """Whether the loss wants the metrics of an optimizer step."""
        loss = self.at(step)
        with self.calling("adapts", step):
            return bool(loss.adapts)

    def after_step(self, metrics: Mapping[str, float], step: int) -> None:
        """Pass the metrics of an optimizer step to the loss."""
        loss = self.at(step)
        with self.calling("after_step", step):
            loss.after_step(metrics)

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
