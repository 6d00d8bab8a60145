"""Guarded calls of a parameter schema, which may run a plugin's validators, serializers and default factories."""

from typing import Any

from pydantic import BaseModel

from skyrl_core.discovery.plugin_call import Guard, PluginCall


def calling_schema(schema: type[BaseModel], failed: str, subject: str = "") -> PluginCall:
    """The context of a call of a schema; without a ``subject``, messages name the schema itself.

    Raises:
        PluginError: the schema's code fails.
    """
    name = f"the parameter schema {schema.__module__}:{schema.__qualname__}"
    return PluginCall(Guard(subject or name, schema.__module__), failed)


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a parameter schema.

    Raises:
        PluginError: it has none, or the schema's code fails.
    """
    with calling_schema(schema, "has no JSON Schema"):
        return schema.model_json_schema()


def as_json_values(params: BaseModel) -> dict[str, Any]:
    """The parameters as JSON values.

    Raises:
        PluginError: a serializer of the schema fails.
    """
    with calling_schema(type(params), "could not be written as JSON"):
        return BaseModel.model_dump(params, mode="json")  # not as a loss that reads its parameters
