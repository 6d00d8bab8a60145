"""The schema as a flat list of options, for `skyrl config` and for suggestions for misspelled keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from skyrl_core.parameters import calling_schema, json_schema
from skyrl_train.config.number import SCHEDULE_TYPE
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.section import Section


@dataclass(frozen=True, kw_only=True)
class Option:
    """One key of the configuration."""

    key: str  # dotted
    type: str
    default: Any  # as in JSON
    range: str  # bounds of a number; empty without bounds
    choices: tuple[str, ...]  # of a `choice`
    description: str

    @property
    def section(self) -> str:
        """The dotted key of the option's section; empty at the top level."""
        return self.key.rpartition(".")[0]


@cache
def all_options() -> tuple[Option, ...]:
    """Every option in schema order: the options of a section come before its subsections."""
    return tuple(option for key, section in all_sections().items() for option in options_of(section, key))


@cache
def all_sections() -> dict[str, type[Section]]:
    """Every section by its dotted key; the key of the run itself is empty."""
    return dict(_sections(RunConfig, ""))


def subsections(section: type[BaseModel]) -> dict[str, type[Section]]:
    """The fields of a section that are themselves sections."""
    return {
        name: field.annotation
        for name, field in section.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _sections(section: type[Section], key: str) -> Iterator[tuple[str, type[Section]]]:
    yield key, section
    for name, inner in subsections(section).items():
        yield from _sections(inner, _join(key, name))


def options_of(section: type[BaseModel], key: str) -> Iterator[Option]:
    """The options of a schema, with keys that start with this one; subsections are left out."""
    nested = subsections(section)
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    for name, schema in json_schema(section).get("properties", {}).items():
        if name in nested:
            continue
        with calling_schema(section, f"has no default for {name}"):
            default = _default(fields[name])
        yield Option(
            key=_join(key, name),
            type=_type(schema),
            default=default,
            range=_range(schema),
            choices=_choices(schema),
            description=schema.get("description", ""),
        )


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


_TYPES = {"string": "text", "boolean": "true/false", "null": "null", "object": "mapping"}


def _type(schema: dict[str, Any]) -> str:
    """The readable type, such as `integer or null`."""
    if "anyOf" in schema:
        types = list(dict.fromkeys(_type(part) for part in schema["anyOf"]))
        return ("/" if SCHEDULE_TYPE in types else " or ").join(types)
    if schema.get("title") == SCHEDULE_TYPE:
        return SCHEDULE_TYPE
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "choice"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "type" not in schema:
        return "any"
    if schema["type"] == "array":
        inner = schema.get("items") or schema.get("prefixItems", [{}])[0]
        count = f"{len(schema['prefixItems'])} " if "prefixItems" in schema else ""
        return f"list of {count}{_type(inner)}{'s' if count else ''}"
    return _TYPES.get(schema["type"], str(schema["type"]))


TYPO = 1000
"""An upper bound from here on only catches typing errors; ranges leave it out."""

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _range(schema: dict[str, Any]) -> str:
    """The bounds of a number, such as `> 0, <= 1`."""
    if "anyOf" in schema:
        return next(filter(None, map(_range, schema["anyOf"])), "")
    if "prefixItems" in schema:
        return _range(schema["prefixItems"][0])
    bounds = {bound: schema[bound] for bound in _BOUNDS if bound in schema}
    if bounds.get("maximum", 0) >= TYPO:
        del bounds["maximum"]
    return ", ".join(f"{_BOUNDS[bound]} {value:g}" for bound, value in bounds.items())


def _choices(schema: dict[str, Any]) -> tuple[str, ...]:
    """The values of a `choice`."""
    if "anyOf" in schema:
        return next(filter(None, map(_choices, schema["anyOf"])), ())
    return tuple(map(str, schema.get("enum", ())))
