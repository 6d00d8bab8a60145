"""A parameter schema as rows of text: names, types, ranges, defaults, descriptions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.parameters.schema_call import json_schema

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_REQUIRED = "required"
_COMPUTED = "computed"


class Parameter(NamedTuple):
    """One row of the table, as text."""

    name: str
    type: str
    range: str
    default: str
    """As JSON, which is also YAML; or `required` or `computed`."""
    description: str


def parameters(schema: type[LossParams]) -> list[Parameter]:
    """Return the parameters of a schema in the order of declaration."""
    document = json_schema(schema)
    properties: dict[str, dict[str, Any]] = document.get("properties", {})
    required = document.get("required", ())
    return [
        Parameter(
            name=name,
            type=_type(field),
            range=", ".join(_ranges(field)),
            default=_REQUIRED if name in required else _default(field),
            description=" ".join(field.get("description", "").split()),
        )
        for name, field in properties.items()
    ]


def as_yaml(name: str, rows: Sequence[Parameter]) -> str:
    """Format a config block that selects the loss and sets every parameter to its default."""
    lines = ["trainer:", "  algorithm:", f"    policy_loss_type: {name}", f"    {name}:" + ("" if rows else " {}")]
    for row in rows:
        about = f"{row.type}{', ' if row.range else ''}{row.range}"
        lines.append(f"      # {row.description + ' ' if row.description else ''}({about})")
        known = row.default not in (_REQUIRED, _COMPUTED)
        lines.append(f"      {row.name}: {row.default}" if known else f"      # {row.name}:  {row.default}")
    return "\n".join(lines)


def as_markdown(rows: Sequence[Parameter]) -> str:
    """Format a Markdown table."""
    cells = [[f"`{row.name}`", row.type, row.range, f"`{row.default}`", row.description] for row in rows]
    table = [["parameter", "type", "range", "default", "description"], ["---"] * 5, *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)


def _default(field: Mapping[str, Any]) -> str:
    return _number(json.dumps(field["default"], ensure_ascii=False)) if "default" in field else _COMPUTED


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if "const" in field:
        return json.dumps(field["const"])
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    return str(field.get("type", "any"))


def _ranges(field: Mapping[str, Any]) -> list[str]:
    ranges = [f"{sign} {_number(json.dumps(field[key]))}" for key, sign in _BOUNDS.items() if key in field]
    return ranges + [text for option in field.get("anyOf", ()) for text in _ranges(option)]


def _number(text: str) -> str:
    # YAML 1.1 reads 1e-06 as text but 1.0e-06 as a number.
    mantissa, exponent, power = text.partition("e-")
    return f"{mantissa}.0{exponent}{power}" if exponent and mantissa.lstrip("-").isdigit() else text
