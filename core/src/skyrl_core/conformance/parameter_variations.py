"""Other valid values for the parameters of a loss."""

import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, PrivateAttr, ValidationError

from skyrl_core.parameters.loss_params import LossParams, OpenLossParams

Path = tuple[str | int, ...]
"""The location of a parameter: names of fields, and positions in lists."""

# Small and large numbers alternate, because often only the first few are tried.
_ANY_NUMBER = (1.0, 0.1, 10.0, 0.5, 2.0, 0.01, 100.0, 0.25, 3.0)
_DIRECTIONS = {"gt": 1, "ge": 1, "lt": -1, "le": -1}


class RecordingParams(OpenLossParams):
    """Open parameters that record which names are read: an untyped loss reveals its parameters in no other way."""

    _read: dict[str, Any] = PrivateAttr(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """As ``LossParams.get``."""
        self._read[name] = default
        return super().get(name, default)

    @property
    def read(self) -> dict[str, Any]:
        """The names that were read, with the value that the loss got."""
        return {name: (self.model_extra or {}).get(name, default) for name, default in self._read.items()}


def variations(params: LossParams) -> dict[Path, list[LossParams]]:
    """Vary each parameter; an empty list means that no other valid value was found."""
    found = dict(_leaves(params))
    return {
        path: [each for value in values if (each := changed(params, path, value))] for path, values in found.items()
    }


def changed(params: LossParams, path: Path, value: Any) -> LossParams | None:
    """Return the parameters with one value replaced; None if the schema rejects it."""
    try:
        return type(params).model_validate(_with(_values(params), path, value))
    except ValidationError:
        return None


def value_at(params: Any, path: Path) -> Any:
    """Return the value of a parameter."""
    for key in path:
        params = getattr(params, str(key)) if isinstance(params, BaseModel) else params[key]
    return params


def dotted(path: Path) -> str:
    """Write the location as in a configuration."""
    return ".".join(map(str, path))


def _leaves(model: BaseModel, prefix: Path = ()) -> Iterator[tuple[Path, list[Any]]]:
    for name, field in type(model).model_fields.items():
        yield from _leaves_of(getattr(model, name), field.rebuild_annotation(), (*prefix, name))
    for name, value in (model.model_extra or {}).items():
        yield (*prefix, name), candidates(type(value), value)


def _leaves_of(value: Any, annotation: Any, path: Path) -> Iterator[tuple[Path, list[Any]]]:
    if isinstance(value, BaseModel):
        yield from _leaves(value, path)
    elif isinstance(value, (list, tuple)) and value:
        for position, element in enumerate(value):
            yield from _leaves_of(element, type(element), (*path, position))
    elif isinstance(value, Mapping):
        for key, element in value.items():
            yield from _leaves_of(element, type(element), (*path, key))
    else:
        yield path, candidates(annotation, value)


def candidates(annotation: Any, current: Any) -> list[Any]:
    """Return values of a type that differ from the current one, likely ones first; the schema may reject them."""
    values = [
        value for value in _of_type(annotation, current, {}) if type(value) is not type(current) or value != current
    ]
    return [value for position, value in enumerate(values) if value not in values[:position]]


def _of_type(annotation: Any, current: Any, bounds: dict[str, float]) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, *metadata = get_args(annotation)
        yield from _of_type(kind, current, bounds | _bounds(metadata))
    elif origin in (Union, types.UnionType):
        for kind in sorted(get_args(annotation), key=lambda kind: kind is types.NoneType):
            yield from _of_type(kind, current, bounds)
    elif origin is Literal:
        yield from get_args(annotation)
    elif annotation in (None, types.NoneType):
        # The type of a value whose default is None is unknown: a number is the likeliest.
        yield from (None, *(_ANY_NUMBER if annotation is types.NoneType and current is None else ()))
    elif isinstance(annotation, type):
        yield from _of_class(annotation, current, bounds)


def _of_class(kind: type[Any], current: Any, bounds: dict[str, float]) -> Iterator[Any]:
    if issubclass(kind, bool):
        yield from (True, False)
    elif issubclass(kind, Enum):
        yield from kind
    elif issubclass(kind, (int, float)):
        yield from map(kind, _numbers(current, bounds))
    elif issubclass(kind, BaseModel):
        try:
            yield kind()
        except ValidationError:
            return  # a field has no default


def _numbers(current: Any, bounds: dict[str, float]) -> Iterator[float]:
    if isinstance(current, (int, float)) and not isinstance(current, bool):
        yield from (2 * current, current / 2, current + 1, current - 1, 10 * current, -current, current / 10, 0)
    low, high = (next((bounds[key] for key in keys if key in bounds), None) for keys in (("gt", "ge"), ("lt", "le")))
    if low is not None and high is not None:
        yield from (low + share * (high - low) for share in (0.5, 0.1, 0.9, 0.0, 1.0))
    elif low is not None or high is not None:
        edge, sign = (low, 1) if low is not None else (high, -1)
        yield from ((edge or 0) + sign * offset for offset in (0.0, *_ANY_NUMBER))
    yield from _ANY_NUMBER


def _bounds(metadata: list[Any]) -> dict[str, float]:
    found: dict[str, float | None] = {}
    for item in metadata:
        for constraint in (item, *getattr(item, "metadata", ())):  # pydantic's FieldInfo holds a list of them
            found |= {key: getattr(constraint, key) for key in _DIRECTIONS if hasattr(constraint, key)}
    return {key: value for key, value in found.items() if value is not None}


def _values(params: BaseModel) -> dict[str, Any]:
    # `dict(params)` of an untyped loss would count as the loss's reading of every parameter.
    return {**vars(params), **(params.model_extra or {})}


def _with(values: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(values, BaseModel):
        values = _values(values)
    if isinstance(values, Mapping):
        return {**values, key: _with(values.get(key), rest, value)}
    return [*values[:key], _with(values[key], rest, value), *values[int(key) + 1 :]]
