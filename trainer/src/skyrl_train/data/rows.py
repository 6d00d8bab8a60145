"""Loads and validates rows from files, folders and hubs; an error names file, row, column and value."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from skyrl_core.discovery import shortened
from skyrl_core.errors import SkyrlError, did_you_mean, nearest
from skyrl_train.environments.environment import Message, Row

_FILE_SUFFIXES = (".jsonl", ".parquet")
_FORMS = "a .jsonl or .parquet file, a folder saved by datasets, or a hub name such as openai/gsm8k:main"


class DataError(SkyrlError):
    """Rows cannot be read, or a row is invalid."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns. All other columns become ``Row.extra``."""

    prompt: str = "prompt"  # text, or a list of chat messages
    ground_truth: str = "ground_truth"  # any scalar
    environment: str = "environment"  # optional; null selects the default environment


def load_rows(spec: str, split: str, *, columns: Columns, default_environment: str) -> Sequence[Row]:
    """All rows of a data set, validated.

    Args:
        spec: a .jsonl or .parquet file, a folder that ``datasets`` saved, or a hub name, ``NAME`` or ``NAME:CONFIG``.
        split: the split of a hub data set, or of a folder with several; ignored for files.
        columns: the names of the columns.
        default_environment: the environment of rows that name none.

    Raises:
        DataError: it cannot be read, is empty, or a row is invalid; the message names file, row, column and value.
    """
    origin, records = _records(spec, split)
    rows = [_row(where, record, columns, default_environment) for where, record in records]
    if not rows:
        raise DataError(f"{origin} has no rows")
    return rows


def _records(spec: str, split: str) -> tuple[str, Iterator[tuple[str, Mapping[str, Any]]]]:
    """The name of the data set in messages, and its records, each with its place."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return f"{spec} (split {split})", _numbered(spec, _saved_dataset(path, split))
    if path.suffix in _FILE_SUFFIXES:
        if not path.is_file():
            raise DataError(f"{spec} does not exist{_neighbours(path)}")
        return spec, _jsonl(path) if path.suffix == ".jsonl" else _numbered(spec, _parquet(path))
    if path.exists() or path.suffix in (".json", ".csv", ".txt", ".arrow") or spec.startswith((".", "/", "~")):
        state = "has an unsupported format" if path.exists() else "does not exist"
        raise DataError(f"{spec} {state}: give {_FORMS}")
    return f"{spec} (split {split})", _numbered(spec, _hub(spec, split))


def _numbered(name: str, records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, record in enumerate(records):
        yield f"{name}, row {number}", record


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    names = [other.name for other in path.parent.iterdir() if other.suffix in _FILE_SUFFIXES]
    match = nearest(path.name, names)
    return f"; did you mean {path.parent / match}?" if match else ""


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                record = json.loads(text) if text.strip() else None
            except UnicodeDecodeError as error:
                raise DataError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is not JSON: {error}") from error
            if not text.strip():
                continue
            if not isinstance(record, dict):
                raise DataError(f"{where} is {_shown(record)}, not a JSON object")
            yield where, record


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error


def _saved_dataset(folder: Path, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except FileNotFoundError as error:
        inside = sorted(str(file) for file in folder.iterdir() if file.suffix in _FILE_SUFFIXES)
        hint = f"; name one of its files: {', '.join(inside)}" if inside else f": give {_FORMS}"
        raise DataError(f"{folder} is not a folder that datasets saved{hint}") from error
    if not isinstance(found, datasets.DatasetDict):
        return _rows_of(found)
    if split not in found:
        raise DataError(f"{folder} has no split {split!r}: choose one of {', '.join(sorted(found))}")
    return _rows_of(found[split])


def _hub(spec: str, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    name, _, config = spec.partition(":")
    try:
        return _rows_of(datasets.load_dataset(name, config or None, split=split))
    except Exception as error:  # the hub client raises the errors of a dozen libraries
        why = " ".join(str(error).split())
        raise DataError(
            f"the hub data set {spec!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {why}\n"
            f"without a network, or to load a file, give {_FORMS}"
        ) from error


def _rows_of(dataset: Any) -> Iterable[Mapping[str, Any]]:
    rows: Iterable[Mapping[str, Any]] = dataset.with_format(None)
    return rows


def _column(where: str, record: Mapping[str, Any], column: str, option: str) -> Any:
    if column in record:
        return record[column]
    hint = did_you_mean(column, record)
    names = ", ".join(map(repr, record)) or "none"
    raise DataError(f"{where} has no column {column!r}{hint}\nits columns are {names}: set {option} to the right one")


def _row(where: str, record: Mapping[str, Any], columns: Columns, default_environment: str) -> Row:
    prompt = _prompt(where, columns.prompt, _column(where, record, columns.prompt, "data.prompt_column"))
    stated = _column(where, record, columns.ground_truth, "data.ground_truth_column")
    environment = record.get(columns.environment)
    if environment is None:
        environment = default_environment
    if not isinstance(environment, str) or not environment:
        raise _wrong(where, columns.environment, environment, "the name of an environment")
    used = (columns.prompt, columns.ground_truth, columns.environment)
    return Row(
        prompt=prompt,
        ground_truth=_ground_truth(where, columns.ground_truth, stated),
        environment=environment,
        extra={name: value for name, value in record.items() if name not in used},
    )


def _prompt(where: str, column: str, value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        messages: tuple[Message, ...] = ({"role": "user", "content": value},)
    elif isinstance(value, list) and value:
        messages = tuple(_message(f"{where}, message {number}", column, item) for number, item in enumerate(value))
    else:
        raise _wrong(where, column, value, "text or a list of chat messages")
    if not any(message["content"].strip() for message in messages):
        raise _wrong(where, column, value, "a prompt with text in it")
    return messages


def _message(where: str, column: str, value: object) -> Message:
    wanted = 'a chat message, {"role": "user", "content": "..."}'
    if not isinstance(value, dict):
        raise _wrong(where, column, value, wanted)
    # A struct column has every key in every row, with null for keys that were not given.
    given = {key: item for key, item in value.items() if item is not None}
    if given.keys() != {"role", "content"} or not all(isinstance(item, str) for item in given.values()):
        raise _wrong(where, column, value, wanted)
    return {"role": given["role"], "content": given["content"]}


def _ground_truth(where: str, column: str, value: object) -> str:
    if not isinstance(value, str | int | float | Decimal) or (isinstance(value, float) and math.isnan(value)):
        raise _wrong(where, column, value, "text or a number")
    return str(value)


def _wrong(where: str, column: str, value: object, wanted: str) -> DataError:
    return DataError(f"{where}, column {column!r}: {_shown(value)} is not {wanted}")


def _shown(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=False, default=repr), 120, escape=True)
