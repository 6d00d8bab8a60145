"""The base of every schema: values have exactly the type of their field, numbers are finite and fit 64 bits."""

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import core_schema

LARGEST = 2**63 - 1
"""The largest integer; torch and most readers of JSON fail beyond it."""
_LEAVES = ("int", "float", "bool", "str")
_NOT_VALUES = ("metadata", "serialization", "default", "config", "function", "expected", "keys_schema")
"""Parts of pydantic's schemas to leave as they are; the keys of a mapping are always text in YAML."""


class _Strictness:
    """Makes the scalars of a core schema strict, in place."""

    def __init__(self, handler: GetCoreSchemaHandler) -> None:
        self._handler = handler

    def applied(self, node: Any) -> Any:
        """The part of a schema, with strict scalars."""
        if isinstance(node, list | tuple):
            return type(node)(map(self.applied, node))
        if not isinstance(node, dict) or _is_ours(node):
            return node
        is_schema = isinstance(node.get("type"), str)
        for key, part in node.items():
            if not (is_schema and key in _NOT_VALUES):
                node[key] = self.applied(part)
        return self._leaf(node) if is_schema else node

    def _leaf(self, schema: Any) -> Any:
        kind = schema["type"]
        if kind in _LEAVES:
            schema.setdefault("strict", True)
        if kind in ("int", "any"):
            return core_schema.no_info_after_validator_function(_storable, schema)
        if kind == "literal" and any(isinstance(each, int) for each in schema["expected"]):
            return core_schema.no_info_before_validator_function(_not_equal_only, schema)
        if kind == "definition-ref" and (other := self._other_class(schema)):
            # Pydantic validates a nested model with the validator of its class, which exists already and is lax.
            return core_schema.no_info_before_validator_function(partial(_strictly, other), schema)
        return schema

    def _other_class(self, reference: Any) -> type | None:
        """The class that a reference means, unless it is strict anyway."""
        schema: Any = self._handler.resolve_ref_schema(reference)
        while "cls" not in schema and "schema" in schema:
            schema = schema["schema"]
        cls = schema.get("cls")
        return cls if isinstance(cls, type) and not issubclass(cls, StrictModel) else None


def _strictly(cls: type, given: Any) -> Any:
    """The instance of another model or data class; JSON, where a list is a tuple, has the strict mode that fits."""
    if not isinstance(given, dict):
        return given
    return TypeAdapter(cls).validate_json(json.dumps(_storable(given)), strict=True)


def _is_ours(schema: dict[str, Any]) -> bool:
    """Whether a part of a schema was made strict before: pydantic may return the one that it has kept."""
    function = schema.get("function")
    called = function.get("function") if isinstance(function, dict) else None
    return getattr(called, "func", called) in (_storable, _not_equal_only, _strictly)


def _storable(value: Any) -> Any:
    """The value, of any type, if JSON and YAML can hold every number in it."""
    if isinstance(value, dict):
        for inner in value.values():
            _storable(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _storable(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("must be an integer of at most 64 bits, between -2**63 and 2**63")
    return value


def _not_equal_only(value: Any) -> Any:
    """The value, unless it merely equals a choice that is an integer: true equals 1, and so does 1.0."""
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")
    return value


class StrictModel(BaseModel):
    """Base class of schemas: unknown keys, values of another type, infinities and NaN are errors.

    Pydantic would otherwise take "1" and true for the number 1, and 1.0 for an integer. Its strict mode cannot be
    configured for a model, because it refuses a list, which YAML and JSON have, for a tuple; so only the scalars of its
    schema are made strict, at any depth, those of other models included. ``Field(strict=False)`` is an exception.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    if not TYPE_CHECKING:  # mypy would take it for a field
        # Of a subclass that allows unknown keys.
        __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_storable)]]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Pydantic's schema of the model with strict scalars."""
        strict: core_schema.CoreSchema = _Strictness(handler).applied(handler(source))
        return strict
