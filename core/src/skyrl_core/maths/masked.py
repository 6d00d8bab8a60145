"""Sums and means over the tokens where a mask is True. Shapes: B sequences, T response tokens.

Masked values never count, not even NaN, and get no gradient. Without any token the result is zero, not NaN.
"""

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar sum of values where mask is True. float and bool of the same shape."""
    # where, not values * mask: 0 * NaN is NaN.
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean of values where mask is True. float and bool of the same shape."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sequence: float [B, T], bool [B, T] -> [B]."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
