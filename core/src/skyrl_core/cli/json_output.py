"""Prints the JSON output of a command."""

from collections.abc import Mapping
from typing import Any


def print_json(schema_version: int, content: Mapping[str, Any]) -> None:
    """Print content together with the version of its schema."""
    import json  # on demand: a listing as text does not need it

    print(json.dumps({"schema_version": schema_version, **content}, indent=2, ensure_ascii=False))
