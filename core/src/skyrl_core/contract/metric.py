"""A logged statistic of a loss that is exact however the batch is split over micro-batches and ranks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["mean", "max", "min", "norm"]

RESERVED_METRIC_NAMES = frozenset(
    {"step", "time", "kind", "final", "tokens", "tokens_per_second", "grad_norm", "learning_rate"}
)
"""Names that the trainer logs in addition to the metrics of a loss."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean as total and count, an extreme, or a norm. Both tensors are detached scalars.

    The trainer adds totals and counts, or takes the extreme of extremes, over micro-batches and ranks, so a
    loss must never average metrics itself.
    """

    kind: Kind
    total: Tensor
    count: Tensor

    @classmethod
    def mean(cls, values: Tensor, mask: Tensor) -> "Metric":
        """Mean of values where mask is True. Any shape, the same for both; bool values give a fraction."""
        values = torch.where(mask, values.detach().to(torch.float32), 0.0)
        return cls(kind="mean", total=values.sum(), count=mask.sum())

    @classmethod
    def max(cls, values: Tensor, mask: Tensor) -> "Metric":
        """Largest value where mask is True. Any shape, the same for both."""
        return cls(kind="max", total=_filled(values, mask, -torch.inf).amax(), count=mask.sum())

    @classmethod
    def min(cls, values: Tensor, mask: Tensor) -> "Metric":
        """Smallest value where mask is True. Any shape, the same for both."""
        return cls(kind="min", total=_filled(values, mask, torch.inf).amin(), count=mask.sum())

    @classmethod
    def norm(cls, values: Tensor, share: Tensor | float) -> "Metric":
        """Euclidean norm of values split over micro-batches; ``share`` is this one's share of all tokens.

        Merged over several optimizer steps, it is the root mean square of their norms.
        """
        total = values.detach().to(torch.float32).square().sum()
        return cls(kind="norm", total=total, count=torch.as_tensor(share, device=total.device))

    def result(self) -> float:
        """The statistic; NaN if nothing was counted. Synchronises with the device: call it when logging."""
        if not self.count:
            return float("nan")
        if self.kind == "norm":
            return math.sqrt(float(self.total / self.count))
        return float(self.total / self.count) if self.kind == "mean" else float(self.total)


def merge(metrics: Iterable[Metric]) -> Metric:
    """The statistic of the union of disjoint batches.

    Raises:
        ValueError: there are no metrics, or their kinds differ.
    """
    parts = list(metrics)
    kinds = {part.kind for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"cannot merge metrics of kinds {sorted(kinds)}: use one kind per metric name")
    totals, counts = torch.stack([part.total for part in parts]), torch.stack([part.count for part in parts])
    kind = kinds.pop()
    total = totals.amax() if kind == "max" else totals.amin() if kind == "min" else totals.sum()
    return Metric(kind=kind, total=total, count=counts.sum())


def _filled(values: Tensor, mask: Tensor, fill: float) -> Tensor:
    filled = torch.where(mask, values.detach().to(torch.float32), fill)
    # amax of an empty tensor is an error; an extra neutral element never changes an extreme.
    return torch.cat([filled.flatten(), filled.new_full((1,), fill)])
