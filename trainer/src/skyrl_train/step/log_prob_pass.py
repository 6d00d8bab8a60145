"""Computes log-probs of a minibatch without gradient, for the old policy and the reference model."""

from collections.abc import Callable

import torch
from torch import Tensor

from skyrl_train.policy.policy import Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatchSize, micro_batches
from skyrl_train.step.experience import Experience

Forward = Callable[[Sequences, bool], tuple[Tensor, Tensor | None]]


@torch.no_grad()
def compute_log_probs(
    forward: Forward,
    experience: Experience,
    *,
    micro_batch_size: MicroBatchSize,
    ranks: Ranks,
    pad_id: int,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs, float32 [N, T], and entropy if requested; zero where masked. Collective."""
    log_probs = torch.zeros(experience.mask.shape, device=experience.mask.device)
    entropy = torch.zeros_like(log_probs) if with_entropy else None
    for micro in micro_batches(experience, micro_batch_size, ranks, pad_id=pad_id):
        values, entropies = forward(micro.experience.sequences, with_entropy)
        if micro.is_filler:
            continue
        log_probs[micro.rows, : values.shape[1]] = values
        if entropy is not None and entropies is not None:
            entropy[micro.rows, : values.shape[1]] = entropies
    return log_probs, entropy
