"""Schedules: a number that depends on the optimizer step. Imports no torch.

Written as a mapping where a number is expected; steps are counted from 0::

    {schedule: constant, value: 0.01}
    {schedule: linear, start: 0.02, end: 0.0, steps: 100}       # end from step 100 on
    {schedule: cosine, start: 0.02, end: 0.0, steps: 100}       # half a cosine wave from start to end
    {schedule: piecewise, points: [[0, 0.02], [50, 0.01]]}      # or interpolation: step, which holds each
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from skyrl_core.errors import did_you_mean
from skyrl_core.parameters.error_wording import rule_of
from skyrl_core.parameters.strict_model import StrictModel

KEY = "schedule"
"""The key that makes a mapping a schedule."""


class Constant(StrictModel):
    """The same number at every step."""

    schedule: Literal["constant"] = "constant"
    value: float

    @property
    def knots(self) -> tuple[int, ...]:
        """The steps between which the schedule only interpolates."""
        return (0,)

    def at(self, step: int) -> float:  # noqa: ARG002 - the same at every step
        """The number at optimizer step ``step``."""
        return self.value

    def __str__(self) -> str:
        return f"{self.value:g}"


class _Ramp(StrictModel):
    schedule: str
    start: float
    end: float
    steps: PositiveInt

    @property
    def knots(self) -> tuple[int, ...]:
        """The steps between which the schedule only interpolates."""
        return (0, self.steps)

    def at(self, step: int) -> float:
        """The number at optimizer step ``step``."""
        return _between(self.start, self.end, self._share(min(max(step, 0), self.steps) / self.steps))

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g} in {self.steps} optimizer steps ({self.schedule})"

    def _share(self, progress: float) -> float:
        raise NotImplementedError


class Linear(_Ramp):
    """From start to end in equal parts."""

    schedule: Literal["linear"] = "linear"

    def _share(self, progress: float) -> float:
        return progress


class Cosine(_Ramp):
    """From start to end along half a cosine wave: slow, fast, slow."""

    schedule: Literal["cosine"] = "cosine"

    def _share(self, progress: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * progress))


class Piecewise(StrictModel):
    """Through points (step, number); constant before the first and after the last."""

    schedule: Literal["piecewise"] = "piecewise"
    points: tuple[tuple[NonNegativeInt, float], ...] = Field(min_length=1)
    interpolation: Literal["linear", "step", "cosine"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(one >= other for one, other in zip(self.knots, self.knots[1:], strict=False)):
            raise ValueError(f"the steps of points must increase, got {', '.join(map(str, self.knots))}")
        return self

    @property
    def knots(self) -> tuple[int, ...]:
        """The steps between which the schedule only interpolates."""
        return tuple(step for step, _ in self.points)

    def at(self, step: int) -> float:
        """The number at optimizer step ``step``."""
        before = [point for point in self.points if point[0] <= step]
        after = [point for point in self.points if point[0] > step]
        if not before or not after or self.interpolation == "step":
            return (before[-1] if before else after[0])[1]
        (left, low), (right, high) = before[-1], after[0]
        ramp = Linear if self.interpolation == "linear" else Cosine
        return ramp(start=low, end=high, steps=right - left).at(step - left)

    def __str__(self) -> str:
        points = ", ".join(f"{number:g} at step {step}" for step, number in self.points)
        return f"{points} ({self.interpolation})"


Schedule = Constant | Linear | Cosine | Piecewise
_KINDS: tuple[str, ...] = tuple(kind.model_fields["schedule"].default for kind in get_args(Schedule))
_ADAPTER: TypeAdapter[Schedule] = TypeAdapter(Annotated[Schedule, Field(discriminator="schedule")])


def is_schedule(value: object) -> bool:
    """Whether a value of a configuration describes a schedule."""
    return isinstance(value, Mapping) and KEY in value


def parse_schedule(value: Any) -> Schedule:
    """The schedule that a mapping describes.

    Raises:
        pydantic.ValidationError: it is not a valid schedule.
    """
    return _ADAPTER.validate_python(value)


def schedule_fault(error: ValidationError) -> str:
    """The reason why ``parse_schedule`` rejected a schedule, in one line."""
    item = error.errors(include_url=False)[0]
    if item["type"] == "union_tag_invalid":
        kind = str(item["input"][KEY])
        return f"no schedule is named {kind!r}{did_you_mean(kind, _KINDS)} (known: {', '.join(_KINDS)})"
    inside = ".".join(map(str, item["loc"][1:]))
    return f"is not a valid schedule: {f'{inside}: ' if inside else ''}{rule_of(item)}"


def checked_steps(knots: tuple[int, ...]) -> tuple[int, ...]:
    """The steps at which to check a bound: the knots, and the step after each knot but the last.

    Between knots a schedule is monotone, so the knots are enough for an interval. The step after a knot reveals a
    number that is an integer only at the knots.
    """
    return tuple(sorted({*knots, *(step + 1 for step in knots[:-1])}))


def number_at(value: "float | Schedule", step: int) -> float:
    """A number, or the number of a schedule at optimizer step ``step``."""
    return float(value) if isinstance(value, float | int) else value.at(step)


def _between(start: float, end: float, share: float) -> float:
    # Exact at both ends: start + (end - start) may differ from end in floating point.
    return start if share == 0 else end if share == 1 else start + (end - start) * share
