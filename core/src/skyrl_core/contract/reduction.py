"""The reduction of per-token values to one scalar: the only place that masks, weights and averages.

Shapes: B sequences, T response tokens. The weights of a batch sum to 1 over all micro-batches and ranks (for the
``*_sum`` reductions: to the mean length), so that partial sums add up.
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from skyrl_core.parameters.algorithm_options import LossReduction as LossReduction

LOSS_REDUCTIONS: tuple[str, ...] = get_args(LossReduction)


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """The counts behind the denominators, over the entire minibatch of all ranks."""

    tokens: Tensor  # scalar float: unmasked tokens
    sequences: Tensor  # scalar float: sequences with at least one unmasked token
    group_tokens: Tensor  # float [G]: unmasked tokens of each group; empty when there are no groups

    @property
    def groups(self) -> Tensor:
        """Scalar float: groups with at least one unmasked token."""
        return (self.group_tokens > 0).sum().to(self.tokens.dtype)


def count_batch(mask: Tensor, groups: Tensor | None = None, *, num_groups: int | None = None) -> BatchCounts:
    """The counts of one batch: mask bool [B, T], groups int64 [B] in 0..num_groups-1.

    Counts of several batches add up, field by field, if all use the same ``num_groups``.
    """
    lengths = mask.sum(-1).to(torch.float64)
    group_tokens = lengths.new_zeros(0)
    if groups is not None:
        size = num_groups if num_groups is not None else int(groups.max()) + 1 if groups.numel() else 0
        group_tokens = lengths.new_zeros(size).index_add(0, groups, lengths)
    return BatchCounts(tokens=lengths.sum(), sequences=(lengths > 0).sum().to(torch.float64), group_tokens=group_tokens)


def token_weights(
    mask: Tensor,
    reduction: LossReduction,
    counts: BatchCounts,
    *,
    groups: Tensor | None = None,
    max_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of each token: mask bool [B, T] -> [B, T], zero where masked.

    ``token_mean``: 1 / tokens. ``sequence_mean``: 1 / (length · sequences). ``sequence_sum``: 1 / sequences.
    ``sequence_sum_norm``: 1 / (sequences · max_length), Dr.GRPO (arXiv 2503.20783). ``prompt_mean``: 1 / (tokens of the
    group · groups), DAPO (arXiv 2503.14476) read per prompt. Sequences without a token do not count.

    Args:
        counts: of the entire minibatch, including all micro-batches and ranks.
        groups: int64 [B], for ``prompt_mean``.
        max_length: L, for ``sequence_sum_norm``.

    Raises:
        ValueError: the reduction is unknown, or an input that it needs is missing.
    """
    per_sequence = _sequence_weights(mask, reduction, counts, groups, max_length)
    return torch.where(mask, per_sequence.unsqueeze(-1), 0.0).to(dtype)


def _sequence_weights(
    mask: Tensor, reduction: LossReduction, counts: BatchCounts, groups: Tensor | None, max_length: int | None
) -> Tensor:
    lengths = mask.sum(-1).to(torch.float64).clamp(min=1)
    if reduction == "token_mean":
        return torch.ones_like(lengths) / counts.tokens.clamp(min=1)
    per_sequence = 1 / counts.sequences.clamp(min=1)
    if reduction == "sequence_mean":
        return per_sequence / lengths
    if reduction == "sequence_sum":
        return per_sequence.expand_as(lengths)
    if reduction == "sequence_sum_norm":
        if not max_length:
            raise ValueError("loss_reduction 'sequence_sum_norm' divides by a fixed length: set max_length (L)")
        return per_sequence.expand_as(lengths) / max_length
    if reduction == "prompt_mean":
        if groups is None:
            raise ValueError("loss_reduction 'prompt_mean' averages within groups: pass groups [B]")
        return 1 / (counts.group_tokens[groups].clamp(min=1) * counts.groups.clamp(min=1))
    raise ValueError(f"unknown loss_reduction {reduction!r}; known: {', '.join(LOSS_REDUCTIONS)}")


def weighted_sum(values: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Scalar sum of values · weights where mask is True; all [B, T]. Masked NaNs do not count."""
    # where, not values * mask: 0 * NaN is NaN.
    return (torch.where(mask, values, 0.0) * weights).sum()
