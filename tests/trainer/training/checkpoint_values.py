"""What a checkpoint holds, value by value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def checkpoint_values(checkpoint: Path) -> dict[str, Any]:
    """All values in the files of a checkpoint, by file and name: parameters, optimizer state, random numbers."""
    found: dict[str, Any] = {}
    for path in sorted(checkpoint.rglob("*.pt")):
        content = torch.load(path, weights_only=False)
        found |= _values(content, path.relative_to(checkpoint).as_posix())
    assert any("exp_avg_sq" in name for name in found)
    return found


def assert_same_values(one: Path, other: Path) -> None:
    """Two checkpoints hold the same, to the last bit."""
    wanted, got = checkpoint_values(one), checkpoint_values(other)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        same = torch.equal(value, got[name]) if isinstance(value, torch.Tensor) else value == got[name]
        assert same, name


def _values(value: object, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors and numbers in nested dicts and lists, by path."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _values(inner, f"{name}/{key}")
    elif isinstance(value, (torch.Tensor, int, float)):
        yield name, value
