"""A number or a schedule in the configuration: `Annotated[Number, Scheduled(ge=0, le=1)]`. Imports no torch."""

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from skyrl_core.parameters import (
    Schedule,
    checked_steps,
    is_schedule,
    number_at,
    parse_schedule,
    rule_of,
    schedule_fault,
)

Number = float | Schedule
SCHEDULE_TYPE = "schedule"
"""The title of a schedule in a JSON Schema."""


class Scheduled:
    """Bounds on a number, or on its schedule at every knot."""

    def __init__(self, *, ge: float, le: float) -> None:
        self._number = core_schema.float_schema(ge=ge, le=le, allow_inf_nan=False, strict=True)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's schema to validate and serialize it."""
        return core_schema.no_info_wrap_validator_function(
            _validate,
            self._number,
            serialization=core_schema.plain_serializer_function_ser_schema(_serialized),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A number with its bounds, or a mapping."""
        return {"anyOf": [handler(self._number), {"type": "object", "title": SCHEDULE_TYPE}]}


def highest(value: Number) -> float:
    """The number, or the largest value of the schedule."""
    return value if isinstance(value, float | int) else max(value.at(step) for step in value.knots)


def describe_number(value: Number) -> str:
    """The number, or a description of the schedule."""
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _validate(value: Any, number: core_schema.ValidatorFunctionWrapHandler) -> Number:
    if isinstance(value, Schedule):
        value = value.model_dump()
    if not is_schedule(value):
        return float(number(value))
    try:
        schedule = parse_schedule(value)
    except ValidationError as error:
        raise ValueError(schedule_fault(error)) from error
    for step in checked_steps(schedule.knots):
        try:
            number(number_at(schedule, step))
        except ValidationError as error:
            rule = rule_of(error.errors(include_url=False)[0])
            raise ValueError(f"{rule}, but its schedule is {schedule.at(step):g} at step {step}") from error
    return schedule


def _serialized(value: Number) -> Any:
    return value if isinstance(value, float | int) else value.model_dump(mode="json")
