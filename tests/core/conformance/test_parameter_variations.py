"""Every kind of parameter gets other values, and only values that the schema accepts."""

from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from skyrl_core.conformance.parameter_variations import RecordingParams, changed, variations
from skyrl_core.parameters.loss_params import LossParams


class Shape(Enum):
    SOFT = "soft"
    HARD = "hard"


class Clip(BaseModel):
    low: float = Field(default=0.2, gt=0, lt=1)


class Params(LossParams):
    coef: float = Field(default=0.0, ge=0)
    share: Annotated[float, Field(gt=0, lt=1e-3)] = 5e-4
    count: int = Field(default=4, ge=4, le=5)
    on: bool = False
    kind: Literal["a", "b"] = "a"
    shape: Shape = Shape.SOFT
    limit: float | None = Field(default=None, gt=1)
    clip: Clip = Clip()
    knots: list[float] = Field(default=[1.0, 2.0])
    label: str = "x"


VARIATIONS = variations(Params())


def values(*path: str | int) -> list[object]:
    found = []
    for params in VARIATIONS[path]:
        value: object = params
        for key in path:
            value = getattr(value, key) if isinstance(key, str) else value[key]  # type: ignore[index]  # a list, by its path
        found.append(value)
    return found


@pytest.mark.parametrize("name", ["coef", "share", "count", "on", "kind", "shape", "limit"])
def test_every_kind_of_parameter_gets_other_values_that_its_schema_allows(name: str) -> None:
    assert values(name)
    assert getattr(Params(), name) not in values(name)
    for params in VARIATIONS[(name,)]:
        Params.model_validate(params.model_dump())


def test_choices_are_tried_in_full() -> None:
    assert values("count") == [5]
    assert values("on") == [True]
    assert values("kind") == ["b"]
    assert values("shape") == [Shape.HARD]


def test_a_parameter_that_is_off_is_turned_on() -> None:
    assert 2.0 in values("limit")
    assert None in [params.limit for params in variations(Params(limit=2.0))[("limit",)]]


def test_nested_parameters_are_varied_one_by_one() -> None:
    assert all(0 < value < 1 and value != 0.2 for value in values("clip", "low"))
    assert {params.knots[1] for params in VARIATIONS[("knots", 0)]} == {2.0}


def test_free_text_is_not_varied() -> None:
    assert values("label") == []


def test_a_change_that_the_schema_rejects_is_none() -> None:
    assert changed(Params(), ("coef",), -1) is None
    assert changed(Params(), ("clip", "low"), 0.5) == Params(clip=Clip(low=0.5))


def test_open_parameters_record_what_was_read() -> None:
    params = RecordingParams(beta=2.0)
    assert (params.get("beta", 1.0), params.get("gamma", 0.5), params.get("delta")) == (2.0, 0.5, None)
    assert params.read == {"beta": 2.0, "gamma": 0.5, "delta": None}
