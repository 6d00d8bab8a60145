"""Values against a parameter schema: everything that is wrong with them at once. Imports no torch."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from skyrl_core.errors import InvalidParamsError, ParamProblem

Schema = TypeVar("Schema", bound=BaseModel)


def validate_params(schema: type[Schema], values: Mapping[str, Any], subject: str, context: Any = None) -> Schema:
    """An instance of the schema. ``subject`` is whose parameters they are, for the message.

    ``context`` goes to the schema's validators.

    Raises:
        InvalidParamsError: values do not fit; ``problems`` has all of them.
    """
    try:
        return schema.model_validate(values, context=context)
    except ValidationError as error:
        problems = [_problem(item, schema) for item in error.errors(include_url=False)]
        raise InvalidParamsError(f"{subject}: the parameters do not fit", problems) from error


def _problem(item: ErrorDetails, schema: type[BaseModel]) -> ParamProblem:
    path = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return ParamProblem(path, None, "is required")
    if item["type"] == "extra_forbidden":
        nearest = get_close_matches(path, schema.model_fields, n=1)
        return ParamProblem(path, item["input"], "unknown parameter", nearest[0] if nearest else None)
    return ParamProblem(path, item["input"], item["msg"].replace("Input should be", "must be"))
