"""Sample batches of the last steps on disk: tensors for programs, text for people."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import save

from skyrl_train.tracking.atomic_file import write_bytes, write_error
from skyrl_train.tracking.strict_json import encode

_RECORDS = re.compile(r"step_(\d+)\.jsonl")
_ANY_FILE = re.compile(r"(\.?)step_(\d+)\.(?:jsonl|safetensors).*")


def save_rollouts(
    folder: Path,
    step: int,
    tensors: Mapping[str, ArrayLike],
    records: Iterable[Mapping[str, Any]],
    *,
    keep: int,
) -> None:
    """Write ``step_000040.safetensors`` and ``step_000040.jsonl``; then keep only the last ``keep`` steps.

    Args:
        folder: ``rollouts`` in the run folder, created if missing.
        tensors: arrays of numbers or booleans, of any shape.
        records: one per sample, with ``prompt``, ``response``, ``reward``, ``advantage``, ``finished``, ``error``.
        keep: 0 writes nothing.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
        ValueError: an array contains neither numbers nor booleans.
    """
    if keep == 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    write_bytes(tensors_file(folder, step), save({name: _array(name, value) for name, value in tensors.items()}))
    # A step counts as saved once its text exists, so the text is written last.
    write_bytes(records_file(folder, step), b"".join(encode(record) + b"\n" for record in records))
    # Later steps belong to an abandoned part of the run: it was resumed from an earlier step.
    kept = [saved for saved in saved_steps(folder) if saved <= step][-keep:]
    _remove_others(folder, kept)


def saved_steps(folder: Path) -> list[int]:
    """The steps whose samples are on disk, in ascending order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _RECORDS.fullmatch(entry.name)))


def read_records(folder: Path, step: int) -> Sequence[dict[str, Any]]:
    """The text records of one saved step."""
    # Not splitlines, because a response may contain other line separators, which JSON does not escape.
    lines = records_file(folder, step).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def tensors_file(folder: Path, step: int) -> Path:
    """The path of the tensors of a step."""
    return folder / f"step_{step:06}.safetensors"


def records_file(folder: Path, step: int) -> Path:
    """The path of the text records of a step."""
    return folder / f"step_{step:06}.jsonl"


def _remove_others(folder: Path, kept: Sequence[int]) -> None:
    """Delete the files of other steps and the incomplete files of a killed run."""
    for entry in list(folder.iterdir()):
        match = _ANY_FILE.fullmatch(entry.name)
        if match and (int(match[2]) not in kept or match[1]):
            entry.unlink(missing_ok=True)


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    # safetensors ignores strides and would save a transposed view in the wrong order.
    array = np.asarray(value, order="C")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"rollout tensor {name!r} has dtype {array.dtype}: convert it to numbers or booleans")
    return array
