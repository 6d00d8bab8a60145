"""Sample batches on disk: tensors for machines, text for people, the last K steps."""

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
    """Write ``step_000040.safetensors`` and ``step_000040.jsonl``; then remove all but the last ``keep`` steps.

    Args:
        folder: ``rollouts`` in the run folder; made if missing.
        tensors: arrays of numbers or booleans, any shape.
        records: one for each sample: ``prompt``, ``response``, ``reward``, ``advantage``, ``finished``, ``error``.
        keep: 0 writes nothing.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full.
        ValueError: an array holds neither numbers nor booleans.
    """
    if keep == 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    write_bytes(tensors_file(folder, step), save({name: _array(name, value) for name, value in tensors.items()}))
    # The text comes last: a step counts once its text is there, so a step that counts is complete.
    write_bytes(records_file(folder, step), b"".join(encode(record) + b"\n" for record in records))
    # Later steps are left from a part of the run that was abandoned by resuming before them.
    kept = [saved for saved in saved_steps(folder) if saved <= step][-keep:]
    _remove_others(folder, kept)


def saved_steps(folder: Path) -> list[int]:
    """The steps whose samples are on disk, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _RECORDS.fullmatch(entry.name)))


def read_records(folder: Path, step: int) -> Sequence[dict[str, Any]]:
    """The text of one saved step."""
    # Not splitlines: a response may hold other line separators, which JSON leaves as they are.
    lines = records_file(folder, step).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def tensors_file(folder: Path, step: int) -> Path:
    """Where the tensors of a step are."""
    return folder / f"step_{step:06}.safetensors"


def records_file(folder: Path, step: int) -> Path:
    """Where the text of a step is."""
    return folder / f"step_{step:06}.jsonl"


def _remove_others(folder: Path, kept: Sequence[int]) -> None:
    """Remove the files of other steps, and what a killed run left half written."""
    for entry in list(folder.iterdir()):
        match = _ANY_FILE.fullmatch(entry.name)
        if match and (int(match[2]) not in kept or match[1]):
            entry.unlink(missing_ok=True)


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    # safetensors writes the memory as it lies: a transposed view would be saved in the wrong order.
    array = np.asarray(value, order="C")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"rollout tensor {name!r} has dtype {array.dtype}: numbers and booleans can be saved")
    return array
