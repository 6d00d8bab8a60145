"""Validation against a parameter schema, which reports all problems at once. Imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from skyrl_core.errors import MOST_LISTED, InvalidParamsError, ParamProblem, PluginError, nearest
from skyrl_core.parameters.error_wording import rule_of
from skyrl_core.parameters.schema_call import calling_schema, json_schema

Schema = TypeVar("Schema", bound=BaseModel)
Path = tuple[str | int, ...]

_PARAM_PROBLEM = "param_problem"
"""The type of pydantic errors that carry a ``ParamProblem``."""


def validate_params(schema: type[Schema], values: Mapping[str, Any], subject: str, context: Any = None) -> Schema:
    """An instance of the schema.

    ``subject`` names the owner of the parameters in the message; ``context`` goes to the schema's validators.

    Raises:
        InvalidParamsError: values are invalid; ``problems`` lists every problem.
        PluginError: a validator of the schema fails in another way than with ValueError.
    """
    with calling_schema(schema, "could not validate its parameters", subject):
        try:
            params = schema.model_validate(values, context=context)
            if not isinstance(params, schema):
                raise TypeError(f"a validator returned {type(params).__name__} instead of the parameters")
            return params
        except ValidationError as error:
            invalid = error
    found = [item for item in invalid.errors(include_url=False) if not _is_consequence(item)]
    problems = [_problem(item, schema, suggest=n < MOST_LISTED) for n, item in enumerate(found)]
    raise InvalidParamsError(f"{subject}: invalid parameters", problems) from invalid


def as_validation_error(schema: type[BaseModel], problems: Iterable[tuple[Path, ParamProblem]]) -> ValidationError:
    """The pydantic error for problems that a validator found, each with the path of its value."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(_PARAM_PROBLEM, "{rule}", {"rule": problem.rule, "nearest": problem.nearest}),
            loc=path,
            input=problem.value,
        )
        for path, problem in problems
    ]
    return ValidationError.from_exception_data(schema.__name__, details)


def _is_consequence(item: ErrorDetails) -> bool:
    """Whether a list is too short only because pydantic left out invalid values, reported separately."""
    return item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]


def _problem(item: ErrorDetails, schema: type[BaseModel], *, suggest: bool) -> ParamProblem:
    path = ".".join(map(str, item["loc"]))
    if item["type"] == _PARAM_PROBLEM:
        return ParamProblem(path, item["input"], item["ctx"]["rule"], item["ctx"]["nearest"])
    if item["type"] == "extra_forbidden" and suggest:
        match = nearest(str(item["loc"][-1]), _known_names(schema, item["loc"][:-1]))
        return ParamProblem(path, item["input"], rule_of(item), match)
    return ParamProblem(path, None if item["type"] == "missing" else item["input"], rule_of(item))


def _known_names(schema: type[BaseModel], path: Path) -> list[str]:
    """The fields of the schema, or of the model nested at the path."""
    if not path:
        return list(schema.model_fields)
    try:
        node = document = json_schema(schema)
    except PluginError:
        return []  # the suggestion is optional
    for part in path:
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
        node = document["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return list(node.get("properties", {}))
