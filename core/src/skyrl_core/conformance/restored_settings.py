"""The settings of the process that a loss must leave as they are."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_Setting = tuple[Callable[[], Any], Callable[[Any], object]]


def _write_variables(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _write_filters(filters: Any) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # a list, although typed as a sequence
    warnings._filters_mutated()  # type: ignore[attr-defined]  # as catch_warnings does


def _write_path(path: list[str]) -> None:
    sys.path[:] = path


SETTINGS: dict[str, _Setting] = {
    "the default dtype of torch": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device of torch": (torch.get_default_device, torch.set_default_device),
    "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads of torch": (torch.get_num_threads, torch.set_num_threads),
    "whether torch uses deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of torch's float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "the anomaly mode of torch": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the environment variables": (lambda: dict(os.environ), _write_variables),
    "the filters of warnings": (lambda: list(warnings.filters), _write_filters),
    "the working directory": (os.getcwd, os.chdir),
    "sys.path": (lambda: list(sys.path), _write_path),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
}


def read_settings() -> dict[str, Any]:
    """Return the value of every setting."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def write_settings(values: Mapping[str, Any]) -> None:
    """Set every setting that has another value."""
    for name, (read, write) in SETTINGS.items():
        if read() != values[name]:
            write(values[name])


@contextmanager
def restored_settings() -> Iterator[None]:
    """Restore every setting afterwards."""
    values = read_settings()
    try:
        yield
    finally:
        write_settings(values)
