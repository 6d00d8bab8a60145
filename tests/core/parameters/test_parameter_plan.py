"""Parameters over a run: checked by the constraints of the field at every knot, resolved at any step."""

import pytest
from pydantic import BaseModel, Field

from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.parameters.parameter_plan import ParamPlan


class Inner(BaseModel):
    weight: float = 1.0


class Params(LossParams):
    coef: float = Field(default=0.5, ge=0, le=1)
    count: int = 3
    name: str = "a"
    flag: bool = False
    optional: float | None = Field(default=None, gt=0)
    terms: tuple[Inner, ...] = ()


def falling(start: float, end: float, steps: int = 10) -> dict[str, object]:
    return {"schedule": "linear", "start": start, "end": end, "steps": steps}


def plan(**values: object) -> ParamPlan[Params]:
    return ParamPlan(Params, values, "loss 'x'")


def problems(**values: object) -> list[str]:
    with pytest.raises(InvalidParamsError) as raised:
        plan(**values)
    return [str(problem) for problem in raised.value.problems]


def test_plain_values_are_the_same_at_every_step() -> None:
    fixed = plan(coef=0.2)
    assert fixed.at(0) == fixed.at(99) == Params(coef=0.2)
    assert (fixed.steps, fixed.schedules) == ((0,), {})


def test_a_scheduled_parameter_has_the_number_of_its_step() -> None:
    scheduled = plan(coef=falling(1.0, 0.0), optional=falling(2.0, 4.0))
    assert scheduled.at(5) == Params(coef=0.5, optional=3.0)
    assert scheduled.numbers(10) == {("coef",): 0.0, ("optional",): 4.0}


def test_a_schedule_is_found_at_any_depth() -> None:
    scheduled = plan(terms=[{"weight": 1.0}, {"weight": falling(1.0, 0.0)}])
    assert [term.weight for term in scheduled.at(5).terms] == [1.0, 0.5]


def test_the_document_has_defaults_and_schedules_and_makes_an_equal_plan() -> None:
    document = plan(coef=falling(1, 0), terms=[{"weight": falling(1, 0)}]).document()
    assert document["coef"] == falling(1.0, 0.0)
    assert document["count"] == 3
    assert document["terms"] == [{"weight": falling(1.0, 0.0)}]
    assert ParamPlan(Params, document, "again").document() == document


def test_a_bound_that_is_broken_at_a_later_knot_names_the_step() -> None:
    assert problems(coef=falling(0.5, 2.0)) == ["coef = 2: must be <= 1 at step 10 of its schedule"]


def test_every_problem_is_reported_once() -> None:
    found = problems(coef=falling(-1.0, 2.0), name=3, cofe=1)
    assert [problem.partition(" = ")[0] for problem in found] == ["coef", "name", "cofe"]


def test_an_integer_that_would_be_a_fraction_between_knots_is_rejected() -> None:
    assert problems(count=falling(0, 4, steps=8))[0].startswith("count = 0.5: must be a whole number")
    assert plan(count=falling(0, 4, steps=2)).at(1).count == 2
    assert plan(count={"schedule": "piecewise", "points": [[0, 1], [5, 8]], "interpolation": "step"}).at(7).count == 8


@pytest.mark.parametrize("field", ["name", "flag"])
def test_only_a_number_takes_a_schedule(field: str) -> None:
    assert problems(**{field: falling(1, 0)})[0].startswith(field)


def test_a_bad_schedule_names_the_parameter() -> None:
    assert "did you mean 'linear'?" in problems(coef={"schedule": "liner"})[0]
