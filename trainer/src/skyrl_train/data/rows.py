"""Turns records into rows; a problem names file, row, column and value."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from skyrl_core.errors import did_you_mean
from skyrl_train.data.data_source import read_records
from skyrl_train.data.json_record import Numeral, as_data, check_text
from skyrl_train.data.messages import messages_of
from skyrl_train.data.row_problem import FaultyRows, RowProblem, raise_faulty, shown
from skyrl_train.environments.environment import Message, Row


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns; a dotted name is a nested value. All other columns become ``Row.extra``."""

    prompt: str = "prompt"  # text, or a list of chat messages
    ground_truth: str = "ground_truth"  # text or a finite number, whose exact text is kept
    environment: str = "environment"  # optional; null selects the default environment


class _InvalidRow(Exception):
    """The problem of a row, as text."""


def load_rows(sources: str | Sequence[str], split: str, *, columns: Columns, default_environment: str) -> Sequence[Row]:
    """All rows of one or several sources, validated.

    Args:
        sources: .jsonl or .parquet files, patterns of files, folders that ``datasets`` saved, or hub names.
        split: the split of a hub data set, or of a folder with several; ignored for files.
        columns: the names of the columns.
        default_environment: the environment of rows that name none.

    Raises:
        DataError: a source cannot be read, is empty, or rows are invalid; the message names their file, row, column
            and value.
    """
    names = (sources,) if isinstance(sources, str) else sources
    entries = list(read_rows(names, split, columns=columns, default_environment=default_environment))
    problems = [entry for entry in entries if isinstance(entry, RowProblem)]
    raise_faulty([FaultyRows(key=", ".join(names), count=len(entries), problems=problems)])
    return [entry for entry in entries if isinstance(entry, Row)]


def read_rows(
    sources: Sequence[str], split: str, *, columns: Columns, default_environment: str, streaming: bool = False
) -> Iterator[Row | RowProblem]:
    """Each row, or its problem, in the order of the sources.

    Raises:
        DataError: a source cannot be read, or none has rows.
    """
    for record in read_records(sources, split, streaming=streaming):
        yield record if isinstance(record, RowProblem) else _row_or_problem(*record, columns, default_environment)


def with_system_prompt(row: Row, text: str | None) -> Row:
    """The row with a system message before its prompt, unless it has one or the text is None."""
    if text is None or row.prompt[0]["role"] == "system":
        return row
    return Row(
        prompt=({"role": "system", "content": text}, *row.prompt),
        ground_truth=row.ground_truth,
        environment=row.environment,
        extra=row.extra,
        place=row.place,
    )


def _row_or_problem(
    where: str, record: Mapping[str, Any], columns: Columns, default_environment: str
) -> Row | RowProblem:
    try:
        return _row(where, record, columns, default_environment)
    except _InvalidRow as problem:
        return RowProblem(place=where, text=str(problem))


def _row(where: str, record: Mapping[str, Any], columns: Columns, default_environment: str) -> Row:
    prompt = _prompt(where, columns.prompt, _column(where, record, columns.prompt, "data.prompt_column"))
    stated = _column(where, record, columns.ground_truth, "data.ground_truth_column")
    environment = next(_found(record, columns.environment), None)
    if environment is None:
        environment = default_environment
    if not isinstance(environment, str) or isinstance(environment, Numeral) or not environment:
        raise _wrong(where, columns.environment, environment, "the name of an environment")
    used = (columns.prompt, columns.ground_truth, columns.environment)
    return Row(
        prompt=prompt,
        ground_truth=_ground_truth(where, columns.ground_truth, stated),
        environment=environment,
        extra={name: _data(where, name, value) for name, value in record.items() if name not in used},
        place=where,
    )


def _data(where: str, column: str, value: object) -> Any:
    """The value with its numerals as numbers."""
    try:
        return as_data(value)
    except ValueError as error:
        raise _InvalidRow(f"{where}, column {column!r}: {error}: correct it or write it as text") from None


def _column(where: str, record: Mapping[str, Any], column: str, option: str) -> Any:
    for value in _found(record, column):
        return value
    hint = did_you_mean(column, _names(record))
    names = ", ".join(map(repr, _names(record))) or "none"
    raise _InvalidRow(f"{where} has no column {column!r}{hint}; its columns are {names}: set {option} to the right one")


def _found(value: Any, name: str) -> Iterator[Any]:
    """The value of a column, if it exists: that of the exact name, or else the nested one of the dotted name."""
    if isinstance(value, Mapping):
        if name in value:
            yield value[name]
            return
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):  # the longest first, because names of columns may contain dots
            head = ".".join(parts[:end])
            if head in value:
                yield from _found(value[head], ".".join(parts[end:]))
                return
    elif isinstance(value, list):
        head, _, rest = name.partition(".")
        if head.isdecimal() and int(head) < len(value):
            yield from _found(value[int(head)], rest) if rest else (value[int(head)],)


def _names(record: Mapping[str, Any]) -> list[str]:
    """The names of the columns, and of the values directly inside them."""
    names = []
    for name, value in record.items():
        names.append(name)
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else []
    return names


def _prompt(where: str, column: str, value: object) -> tuple[Message, ...]:
    try:
        return messages_of(value)
    except ValueError as error:
        raise _InvalidRow(f"{where}, column {column!r}: {error}") from None


def _ground_truth(where: str, column: str, value: object) -> str:
    if isinstance(value, str):
        return str(value) if isinstance(value, Numeral) else _text(where, column, value)
    finite = isinstance(value, float | Decimal) and math.isfinite(value)
    if finite or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    # Text for a date, a boolean or a list could be written in several ways, and an answer would have to match one.
    raise _wrong(where, column, value, "text or a finite number; write the expected answer as text")


def _text(where: str, column: str, value: str) -> str:
    try:
        check_text(value)
    except ValueError as error:
        raise _InvalidRow(f"{where}, column {column!r}: {shown(value)}: {error}: correct the text") from None
    return value


def _wrong(where: str, column: str, value: object, wanted: str) -> _InvalidRow:
    return _InvalidRow(f"{where}, column {column!r}: {shown(value)} is not {wanted}")
