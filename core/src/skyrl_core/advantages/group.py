"""Statistics of the samples that share a prompt. Groups have any size; numbers may be unused."""

import torch
from torch import Tensor


def group_sizes(groups: Tensor) -> Tensor:
    """Samples in the group of each sample: int64 [N] -> float64 [N]."""
    return torch.bincount(groups).to(torch.float64)[groups]


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over the group of each sample: float [N], int64 [N] -> float64 [N]."""
    # float64: the mean of equal float32 rewards is then exact, and centred rewards are 0 instead of rounding noise,
    # which division by a tiny standard deviation would blow up.
    values = values.to(torch.float64)
    count = int(groups.max()) + 1 if len(groups) else 0
    return values.new_zeros(count).index_add(0, groups, values)[groups]


def centred(values: Tensor, groups: Tensor) -> Tensor:
    """Values minus the mean of their group: float [N], int64 [N] -> float64 [N]."""
    return values.to(torch.float64) - group_sums(values, groups) / group_sizes(groups)
