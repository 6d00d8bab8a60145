"""What a loss computes from a minibatch before its micro-batches, and how it is split among these."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from skyrl_core.errors import ConformanceError


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The result of ``PolicyLoss.prepare``: detached tensors, by how they are split into micro-batches.

    Each is ``batch.prepared[NAME]`` in ``token_losses``. Sizes are never guessed: a table of T positions or G groups
    may have as many rows as the minibatch has sequences.
    """

    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, T] or [B, T, ...]: a micro-batch gets the rows of its sequences, and as many columns as it has."""
    per_sequence: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] or [B, ...]: a micro-batch gets the rows of its sequences."""
    per_minibatch: Mapping[str, Tensor] = field(default_factory=dict)
    """Any shape, such as a mean or a table of groups: every micro-batch gets the same tensor."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for a micro-batch that is the entire minibatch."""
        return {**self.per_token, **self.per_sequence, **self.per_minibatch}

    def part(self, rows: Tensor, width: int) -> dict[str, Tensor]:
        """The tensors of a micro-batch by name: of these sequences, int64 [b], and the first ``width`` tokens."""
        tokens = {name: tensor[rows, :width] for name, tensor in self.per_token.items()}
        sequences = {name: tensor[rows] for name, tensor in self.per_sequence.items()}
        return {**tokens, **sequences, **self.per_minibatch}

    def detached(self) -> "Prepared":
        """The same tensors without gradient."""
        return self._map(lambda mapping: {name: tensor.detach() for name, tensor in mapping.items()})

    def to(self, dtype: torch.dtype) -> "Prepared":
        """The same tensors, those of floats in this dtype."""
        return self._map(lambda mapping: {n: t.to(dtype) if t.is_floating_point() else t for n, t in mapping.items()})

    def under(self, label: str) -> "Prepared":
        """The same tensors, each named ``label/NAME``."""
        return self._map(lambda mapping: {f"{label}/{name}": tensor for name, tensor in mapping.items()})

    def merged(self, other: "Prepared") -> "Prepared":
        """The tensors of both, whose names must differ."""
        return Prepared(
            per_token={**self.per_token, **other.per_token},
            per_sequence={**self.per_sequence, **other.per_sequence},
            per_minibatch={**self.per_minibatch, **other.per_minibatch},
        )

    def _map(self, change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> "Prepared":
        return Prepared(**{each.name: change(getattr(self, each.name)) for each in fields(self)})


def checked_prepared(value: Any, mask: Tensor, loss_name: str) -> Prepared:
    """What the ``prepare`` of a loss returned for a minibatch with this mask, [B, T].

    Raises:
        ConformanceError: it is not a ``Prepared``, uses a name twice, or a shape does not fit its declaration.
    """
    where = f"prepare of the loss {loss_name}"
    if not isinstance(value, Prepared):
        raise ConformanceError(
            f"{where} returned {type(value).__name__}: return Prepared(per_token={{...}}, per_sequence={{...}}, "
            "per_minibatch={...}), which says how each tensor is split into micro-batches"
        )
    kinds = {each.name: getattr(value, each.name) for each in fields(value)}
    twice = [name for name, count in Counter(name for kind in kinds.values() for name in kind).items() if count > 1]
    if twice:
        raise ConformanceError(f"{where} returned two tensors named {twice[0]!r}: rename one")
    for kind, tensors in kinds.items():
        leading = {"per_token": mask.shape, "per_sequence": mask.shape[:1]}.get(kind, mask.shape[:0])
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise ConformanceError(f"{where} returned {type(tensor).__name__} as {name!r}: return a tensor")
            if tensor.shape[: len(leading)] != leading:
                raise ConformanceError(
                    f"{where} declares {name!r} as {kind}, and its shape is {list(tensor.shape)} for a minibatch of "
                    f"{list(mask.shape)}: it must start with {list(leading)}; declare what is neither per token nor "
                    "per sequence as per_minibatch"
                )
    return value
