"""One strictness of all schemas: losses, estimators, environments, sections and what authors nest in them."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator

from skyrl_core import LossParams
from skyrl_core.parameters import OffPolicyOptions, OpenLossParams, StrictModel
from skyrl_core.registry import ESTIMATORS, LOSSES
from skyrl_train.config.block_options import find_block
from skyrl_train.config.options import all_options, all_sections
from skyrl_train.environments.environment import EnvironmentParams

HUGE = 2**63


class Plain(BaseModel):
    """A model of an author that is not strict by itself."""

    n: int = 1
    pair: tuple[int, float] = (1, 2.0)


@dataclass
class Data:
    n: int = 1


class One(LossParams):
    kind: Literal["one"] = "one"
    weight: float = 1.0


class Two(LossParams):
    kind: Literal["two"] = "two"


class Author(LossParams):
    """Every kind of field."""

    number: float = 0.0
    count: int = 1
    flag: bool = False
    text: str = ""
    many: tuple[float, ...] = ()
    grid: list[list[int]] = []
    by_name: dict[str, float] = {}
    some: set[int] = set()
    optional: float | None = None
    mode: Literal["auto"] | int = "auto"
    stage: Literal[0, 1] = 0
    anything: Any = None
    plain: Plain = Plain()
    plains: tuple[Plain, ...] = ()
    data: Data = Data()
    variant: One | Two = Field(default=One(), discriminator="kind")
    percent: float = 0.5
    lenient: float = Field(default=0.0, strict=False)
    converted: Annotated[float, BeforeValidator(float)] = 0.0

    @field_validator("percent", mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return float(value.removesuffix("%")) / 100 if isinstance(value, str) else value


@pytest.mark.parametrize(
    "values",
    [
        {"number": "1"},
        {"number": True},
        {"number": math.nan},
        {"number": math.inf},
        {"number": 10**400},
        {"count": 1.0},
        {"count": "1"},
        {"count": True},
        {"count": HUGE},
        {"flag": 1},
        {"flag": "yes"},
        {"text": 1},
        {"text": b"a"},
        {"many": ["1"]},
        {"many": [math.nan]},
        {"grid": [[1, 2.0]]},
        {"by_name": {"a": "1"}},
        {"some": ["1"]},
        {"optional": "1"},
        {"mode": "3"},
        {"mode": True},
        {"stage": True},
        {"stage": 1.0},
        {"anything": {"a": [math.nan]}},
        {"anything": -HUGE - 1},
        {"plain": {"n": "1"}},
        {"plain": {"n": True}},
        {"plains": [{"pair": [1, "2"]}]},
        {"plain": {"pair": [1, math.nan]}},
        {"data": {"n": "1"}},
        {"variant": {"kind": "one", "weight": "1"}},
        {"unknown": 1},
    ],
)
def test_a_value_of_another_type_is_refused_at_any_depth(values):
    with pytest.raises(ValidationError) as caught:
        Author(**values)
    assert {error["loc"][0] for error in caught.value.errors()} == set(values)


def test_values_as_yaml_and_json_have_them_are_accepted():
    made = Author(number=1, many=[1, 2.5], some=[1], by_name={"a": 1}, plain={"n": 2, "pair": [3, 4]}, data={"n": 2})
    assert (made.number, made.many, made.some, made.by_name) == (1.0, (1.0, 2.5), {1}, {"a": 1.0})
    assert (made.plain, made.data) == (Plain(n=2, pair=(3, 4.0)), Data(2))
    assert Author(variant={"kind": "two"}, anything=[1, "x", None]).variant == Two()


def test_conversions_that_an_author_writes_still_work():
    made = Author(percent="20%", lenient="0.5", converted="0.25")
    assert (made.percent, made.lenient, made.converted) == (0.2, 0.5, 0.25)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": HUGE}])
def test_an_unknown_parameter_of_an_open_schema_must_be_storable(value):
    with pytest.raises(ValidationError, match=r"finite|64 bits") as caught:
        OpenLossParams(anything=value)
    assert caught.value.errors()[0]["loc"][0] == "anything"


def test_every_schema_has_the_strict_base():
    schemas = [*all_sections().values(), LossParams, EnvironmentParams, OffPolicyOptions]
    schemas += [find_block(row.name).schema for row in [*LOSSES.rows(), *ESTIMATORS.rows()]]
    assert all(issubclass(schema, StrictModel) for schema in schemas)


WRONG = {
    "number": ("1", "x", True, math.nan, math.inf, [1], {"a": 1}, b"1"),
    "integer": ("1", "x", True, 1.0, 1.5, math.nan, HUGE, [1], {"a": 1}),
    "true/false": (0, 1, 1.0, "true", "yes", [], {}, math.nan),
    "text": (1, 1.0, True, [], {}, math.nan, b"a"),
    "choice": (1.5, True, [], {}, math.nan, "no such choice", b"a"),
    "list": (5, "x", True, {}, math.nan),
    "mapping": (5, "x", True, [], math.nan),
}


def wrong_values(kind: str) -> list[Any]:
    """The values that are wrong for each alternative of a type such as `integer or null`."""
    names = kind.replace("/schedule", "").split(" or ")
    kinds = [WRONG[word] for name in names for word in WRONG if name.startswith(word)]
    return [value for value in kinds[0] if all(repr(value) in map(repr, each) for each in kinds)] if kinds else []


def every_option():
    for key, section in all_sections().items():
        for option in all_options():
            if option.section == key:
                yield section, option
    for row in [*LOSSES.rows(), *ESTIMATORS.rows()]:
        block = find_block(row.name)
        yield from ((block.schema, option) for option in block.options)


def test_every_option_and_parameter_refuses_every_wrong_type():
    tried, accepted = 0, []
    for schema, option in every_option():
        name = option.key.rpartition(".")[2]
        for value in wrong_values(option.type):
            tried += 1
            with_value = {name: value}
            try:
                schema.model_validate(with_value)
            except ValidationError:
                continue
            accepted.append((option.key, option.type, value))
    assert not accepted
    assert tried > 1000
