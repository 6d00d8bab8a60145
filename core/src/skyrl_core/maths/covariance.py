"""The covariance of advantage and log-prob at each token, and the choice of tokens by it.

Tokens whose log-prob and advantage are both high, or both low, are those that lower the entropy: arXiv 2505.22617.
Used by ``clip_cov`` and ``kl_cov``, on the whole minibatch of all ranks. Shapes: B sequences, T response tokens.
"""

import torch
from torch import Tensor

from skyrl_core.maths.masked import masked_mean


def token_covariance(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """(log pi - its mean) (A - its mean), means over the unmasked tokens: [B, T] each -> float64 [B, T]."""
    # float64: the choice of tokens must not change with the order in which a float32 mean was summed.
    log_probs, advantages = log_probs.to(torch.float64), advantages.to(torch.float64)
    return (log_probs - masked_mean(log_probs, mask)) * (advantages - masked_mean(advantages, mask))


def by_covariance(covariance: Tensor, log_probs: Tensor, among: Tensor) -> Tensor:
    """Flat indices of the tokens of bool [B, T] ``among``, highest covariance first: int64 [n].

    Equal covariances are ordered by log-prob, so that the order does not depend on that of the sequences.
    """
    indices = among.flatten().nonzero().squeeze(-1)
    indices = indices[log_probs.flatten()[indices].argsort(stable=True)]
    return indices[covariance.flatten()[indices].argsort(stable=True, descending=True)]


def share_of_tokens(fraction: float, mask: Tensor) -> int:
    """That fraction of the unmasked tokens of bool [B, T], rounded down, at least one as in the authors' code."""
    return max(int(fraction * int(mask.sum())), 1)


def at_indices(indices: Tensor, mask: Tensor) -> Tensor:
    """bool like ``mask`` [B, T], True at these flat indices, int64 [n]."""
    chosen = torch.zeros_like(mask).flatten()
    chosen[indices] = True
    return chosen.view_as(mask)
