"""All problems with the values of a schema, each with its path."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters.param_validation import validate_params


class Step(BaseModel, extra="forbid"):
    weight: float = 1.0


class Plain(BaseModel, extra="forbid"):
    level: int = 0
    steps: tuple[Step, ...] = Field(default=(), min_length=1)
    inner: Step = Step()


class WithoutDocument(Plain):
    act: Callable[[], int] | None = None


def problems(schema: type[BaseModel], **values: Any) -> list[str]:
    with pytest.raises(InvalidParamsError) as raised:
        validate_params(schema, values, "the schema")
    return list(map(str, raised.value.problems))


def test_valid_values_make_an_instance() -> None:
    assert validate_params(Plain, {"level": 2}, "the schema") == Plain(level=2)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"levle": 1}, "levle = 1: unknown parameter; did you mean 'level'?"),
        ({"xyzzy": 1}, "xyzzy = 1: unknown parameter"),
        ({"inner": {"wieght": 1}}, "inner.wieght = 1: unknown parameter; did you mean 'weight'?"),
        ({"steps": [{}, {"wieght": 1}]}, "steps.1.wieght = 1: unknown parameter; did you mean 'weight'?"),
        ({"steps": []}, "steps = []: must have at least one value, not 0"),
    ],
)
def test_a_problem_is_named_where_it_is(values: dict[str, Any], problem: str) -> None:
    assert problems(Plain, **values) == [problem]


def test_a_schema_that_has_no_json_form_suggests_only_its_fields() -> None:
    found = problems(WithoutDocument, levle=1, inner={"wieght": 1})
    assert sorted(found) == [
        "inner.wieght = 1: unknown parameter",
        "levle = 1: unknown parameter; did you mean 'level'?",
    ]
