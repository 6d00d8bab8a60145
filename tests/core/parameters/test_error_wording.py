"""The text of pydantic's errors."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from skyrl_core.parameters.error_wording import rule_of


class Inner(BaseModel):
    a: int = 1


class Options(BaseModel, extra="forbid"):
    count: int = Field(default=1, ge=1)
    share: float = Field(default=0.5, gt=0, lt=1, allow_inf_nan=False)
    name: str = Field(default="x", min_length=1)
    betas: tuple[float, float] = (0.9, 0.9)
    names: list[str] = Field(default=["x"], min_length=1)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"count": 0}, "must be >= 1"),
        ({"count": "many"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"share": 1}, "must be < 1"),
        ({"share": 0}, "must be > 0"),
        ({"share": "half"}, "must be a number"),
        ({"share": float("nan")}, "must be a finite number"),
        ({"name": 3}, "must be text; put it in quotes"),
        ({"name": []}, "must be text"),
        ({"name": ""}, "String should have at least 1 character"),
        ({"betas": 0.9}, "must be a list, such as [a, b]"),
        ({"betas": [0.9]}, "has too few values"),
        ({"betas": [0.9] * 3}, "must have 2 values, not 3"),
        ({"names": []}, "must have at least one value, not 0"),
        ({"inner": 3}, "must be a mapping"),
        ({"more": 3}, "unknown parameter"),
    ],
)
def test_an_invalid_value_has_its_requirement(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Options.model_validate(values)
    assert [rule_of(detail) for detail in raised.value.errors()] == [rule]
