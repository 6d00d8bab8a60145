"""Reads records from files, patterns of files, folders and hubs, each record with its place."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skyrl_core.errors import nearest
from skyrl_train.config.data_files import DATA_FILES, files_of, is_pattern
from skyrl_train.data.json_record import Numeral, parse_record
from skyrl_train.data.row_problem import DataError, RowProblem, shown

_FORMS = "a .jsonl or .parquet file, a folder saved by datasets, or a hub name such as openai/gsm8k:main"

Record = tuple[str, Mapping[str, Any]]
"""The place of a record in messages, ``FILE:LINE`` or ``FILE, row NUMBER``, and its columns."""


def read_records(sources: Sequence[str], split: str, *, streaming: bool = False) -> Iterator[Record | RowProblem]:
    """The records of all sources: in the given order, the files of a pattern sorted by path.

    Args:
        sources: files, patterns of files, folders that ``datasets`` saved, or hub names, ``NAME`` or ``NAME:CONFIG``.
        split: the split of a hub dataset, or of a folder with several; ignored for files.
        streaming: read a hub dataset from its start, without downloading all of it.

    Raises:
        DataError: a source cannot be read, or none has rows. A line that is no record is a problem instead.
    """
    found = False
    for source in sources:
        for file in _existing(source):
            for record in _records(file, split, streaming=streaming):
                found = True
                yield record
    if not found:
        raise DataError(f"{', '.join(sources)} has no rows")


def _existing(source: str) -> list[str]:
    files = files_of(source)
    if not files:
        raise DataError(f"{source} matches no file: correct the pattern or prepare the data first")
    return files


def _records(source: str, split: str, *, streaming: bool) -> Iterator[Record | RowProblem]:
    path = Path(source).expanduser()
    if path.is_dir():
        return _numbered(source, _saved_dataset(path, split))
    if path.suffix in DATA_FILES:
        if not path.is_file():
            raise DataError(f"{source} does not exist{_neighbours(path)}")
        return _jsonl(path) if path.suffix == ".jsonl" else _parquet(path)
    looks_local = path.suffix in (".json", ".csv", ".txt", ".arrow") or source.startswith((".", "/", "~"))
    if path.exists() or looks_local or is_pattern(source):
        state = "has an unsupported format" if path.exists() else "does not exist"
        raise DataError(f"{source} {state}: give {_FORMS}")
    return _numbered(source, _hub(source, split, streaming=streaming))


def _numbered(name: str, records: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    for number, record in enumerate(records):
        yield f"{name}, row {number}", record


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    names = [other.name for other in path.parent.iterdir() if other.suffix in DATA_FILES]
    match = nearest(path.name, names)
    return f"; did you mean {path.parent / match}?" if match else ""


def _jsonl(path: Path) -> Iterator[Record | RowProblem]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                parsed = _json_line(f"{path}:{number}", line, encoding="utf-8-sig" if number == 1 else "utf-8")
                if parsed is not None:
                    yield parsed
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _json_line(where: str, line: bytes, *, encoding: str) -> Record | RowProblem | None:
    """The record of a line, its problem, or None for a blank line."""
    try:
        text = line.decode(encoding)
        if not text.strip():
            return None
        record = parse_record(text)
    except UnicodeDecodeError as error:
        return RowProblem(text=f"{where} is not UTF-8: {error.reason} at byte {error.start}", place=where)
    except (ValueError, RecursionError) as error:
        return RowProblem(text=f"{where} is not JSON: {error}", place=where)
    if not isinstance(record, dict):
        return RowProblem(text=f"{where} is {shown(record)}, not a JSON object", place=where)
    return where, record


def _parquet(path: Path) -> Iterator[Record | RowProblem]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{path} has two columns {twice!r}: rename or remove one")
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                columns = [_column_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    yield _parquet_row(f"{path}, row {number}", dict(zip(names, values, strict=True)))
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error


def _column_values(column: Any) -> list[Any]:
    """The values of a column; an exception for each that Python cannot express, such as text that is not UTF-8."""
    kind = str(column.type)
    if kind in ("float", "halffloat"):
        return [_as_numeral(value, kind) for value in column.to_pylist()]
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_value_or_error(value) for value in column]
    return values


def _value_or_error(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError) as error:
        return error


def _parquet_row(where: str, record: Mapping[str, Any]) -> Record | RowProblem:
    for name, value in record.items():
        if isinstance(value, Exception):
            return RowProblem(text=f"{where}, column {name!r} cannot be read: {value}", place=where)
    return where, record


def _as_numeral(value: float | None, kind: str) -> Any:
    """A float of 32 or 16 bits by its shortest text: 1.1, not 1.100000023841858, its value in 64 bits."""
    import numpy

    if value is None or not math.isfinite(value):
        return value
    return Numeral(numpy.float16(value) if kind in ("halffloat", "float16") else numpy.float32(value))


def _saved_dataset(folder: Path, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except FileNotFoundError as error:
        inside = sorted(str(file) for file in folder.iterdir() if file.suffix in DATA_FILES)
        hint = f"; name one of its files: {', '.join(inside)}" if inside else f": give {_FORMS}"
        raise DataError(f"{folder} is not a folder that datasets saved{hint}") from error
    if not isinstance(found, datasets.DatasetDict):
        return _rows_of(found)
    if split not in found:
        raise DataError(f"{folder} has no split {split!r}: choose one of {', '.join(sorted(found))}")
    return _rows_of(found[split])


def _hub(source: str, split: str, *, streaming: bool) -> Iterable[Mapping[str, Any]]:
    import datasets

    name, _, config = source.partition(":")
    if streaming and datasets.config.HF_HUB_OFFLINE:
        streaming = False  # only a copy on this machine can be read, and that is not streamed
    # Not passed if it is False, which is the default.
    options = {"streaming": True} if streaming else {}
    try:
        return _rows_of(datasets.load_dataset(name, config or None, split=split, **options))
    except Exception as error:  # the hub client raises the errors of a dozen libraries
        why = " ".join(str(error).split())
        raise DataError(
            f"the hub data set {source!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {why}; "
            f"without a network, or to load a file, give {_FORMS}"
        ) from error


def _rows_of(dataset: Any) -> Iterable[Mapping[str, Any]]:
    rows: Iterable[Mapping[str, Any]] = dataset.with_format(None)
    kinds = {name: getattr(feature, "dtype", None) for name, feature in (dataset.features or {}).items()}
    short = {name: kind for name, kind in kinds.items() if kind in ("float32", "float16")}
    if not short:
        return rows
    return ({**row, **{name: _as_numeral(row[name], kind) for name, kind in short.items()}} for row in rows)
