"""The vocabulary entries that top-k, top-p or min-p left for each sampled token, so that log-probs cover only them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

HIDDEN = -1e30
"""The logit of an entry that was left out: its probability is exactly 0, and its products stay finite."""


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """The entries of each token, one after the other. Indexed, moved and counted like the tensor ``counts``."""

    ids: Tensor  # int64 [K]
    counts: Tensor  # int64, one number for each token, such as [N, T]; 0 for padding

    @classmethod
    def of(cls, kept: Sequence[Sequence[Any]], width: int) -> Self:
        """``kept[n][t]`` are the entries of token t of sequence n; ``counts`` is padded to [N, width]."""
        counts = [[len(ids) for ids in row] + [0] * (width - len(row)) for row in kept]
        parts = [np.asarray(ids, dtype=np.int64) for ids in chain.from_iterable(kept)]
        return cls(
            ids=torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)),
            counts=torch.tensor(counts, dtype=torch.long).reshape(len(kept), width),
        )

    @property
    def ndim(self) -> int:
        """The dimensions of ``counts``."""
        return self.counts.ndim

    def __getitem__(self, index: Any) -> Self:
        """The entries of the tokens that this index selects from ``counts``, in its order."""
        ends = self.counts.flatten().cumsum(0).view_as(self.counts)
        counts = self.counts[index]
        flat = counts.flatten()
        shift = (ends - self.counts)[index].flatten() - (flat.cumsum(0) - flat)
        places = torch.arange(int(flat.sum()), device=flat.device) + shift.repeat_interleave(flat)
        return type(self)(ids=self.ids[places], counts=counts)

    def include(self, tokens: Tensor) -> bool:
        """Whether each token, int64 with the shape of ``counts``, is one of its entries; -1, padding, is ignored."""
        numbers = torch.arange(tokens.numel(), device=tokens.device).repeat_interleave(self.counts.flatten())
        found = tokens.flatten() < 0
        found[numbers[self.ids == tokens.flatten()[numbers]]] = True
        return bool(found.all())

    def to(self, device: torch.device) -> Self:
        """A copy on another device."""
        return type(self)(ids=self.ids.to(device), counts=self.counts.to(device))

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *self.counts.cumsum(0).tolist()]

    def hide_others(self, logits: Tensor, chunk: slice, part: slice) -> None:
        """Overwrite the logits of entries that were left out; for ``counts`` [N].

        Args:
            logits: float [n, v], of the tokens ``chunk`` and the vocabulary entries ``part``.
            chunk: a slice of the N tokens.
            part: a slice of the vocabulary.
        """
        ids = self.ids[self._ends[chunk.start] : self._ends[chunk.stop]]
        counts = self.counts[chunk]
        rows = torch.arange(len(counts), device=ids.device).repeat_interleave(counts)
        inside = (ids >= part.start) & (ids < part.stop)
        left_out = torch.ones_like(logits, dtype=torch.bool)
        left_out[rows[inside], ids[inside] - part.start] = False
        logits.masked_fill_(left_out, HIDDEN)
