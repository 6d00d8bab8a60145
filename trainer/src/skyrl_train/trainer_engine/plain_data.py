"""Loads the files of a checkpoint as tensors and plain data only, so that no file can run code."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from skyrl_core.errors import SkyrlError

FORCE, FORBID_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""PyTorch's variables. The first one overrides ``weights_only=False``, which DeepSpeed passes in dozens of places."""


@contextmanager
def plain_data_only(folder: Path) -> Iterator[None]:
    """In the block every ``torch.load``, DeepSpeed's included, rejects all but tensors and plain data.

    Args:
        folder: contains the files that the block loads.

    Raises:
        SkyrlError: a file holds something else; names the first such file.
    """
    before = {name: os.environ.pop(name, None) for name in (FORCE, FORBID_FORCE)}
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_deepspeed_classes()):
            try:
                yield
            except Exception as error:
                foreign = _find_foreign_file(folder)  # DeepSpeed and torch raise many kinds of errors for such a file
                if foreign is None:
                    raise
                raise foreign from error
    finally:
        del os.environ[FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _deepspeed_classes() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What DeepSpeed saves besides tensors: an enumeration, a loss scale that is constant, a pair of integers."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def _find_foreign_file(folder: Path) -> SkyrlError | None:
    """The error that names the first file in the folder that is not plain data, or None."""
    for file in sorted(folder.rglob("*.pt")):
        try:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError):
            return SkyrlError(
                f"{file} is not a file that this trainer wrote, and was not loaded: its format could run code. "
                "Use a checkpoint that you trust"
            )
        if found:
            return SkyrlError(
                f"{file} holds {', '.join(sorted(found)[:3])} and was not loaded: a checkpoint holds only tensors and "
                "plain data, and anything else could run code. Use a checkpoint that you trust; if the file is yours, "
                "load it with the version of DeepSpeed that wrote it"
            )
    return None
