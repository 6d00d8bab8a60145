"""The covariance of advantage and log-prob at each token, and the selection of tokens by it.

Tokens whose log-prob and advantage are both high, or both low, lower the entropy: arXiv 2505.22617.
Used by ``clip_cov`` and ``kl_cov``, on the entire minibatch of all ranks. Shapes: B sequences, T response tokens.
"""

import torch
from torch import Tensor

from skyrl_core.maths.masked import masked_mean


def token_covariance(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """(log pi - its mean) (A - its mean), means over the unmasked tokens: [B, T] each -> float64 [B, T]."""
    # float64: the selection must not depend on the order in which a float32 mean is summed.
    log_probs, advantages = log_probs.to(torch.float64), advantages.to(torch.float64)
    return (log_probs - masked_mean(log_probs, mask)) * (advantages - masked_mean(advantages, mask))


def by_covariance(covariance: Tensor, log_probs: Tensor, among: Tensor) -> Tensor:
    """Flat indices of the tokens of bool [B, T] ``among``, highest covariance first: int64 [n].

    Equal covariances are ordered by log-prob, so that the order of the sequences has no effect.
    """
    indices = among.flatten().nonzero().squeeze(-1)
    indices = indices[log_probs.flatten()[indices].argsort(stable=True)]
    return indices[covariance.flatten()[indices].argsort(stable=True, descending=True)]


def share_of_tokens(fraction: float, mask: Tensor) -> int:
    """The number of unmasked tokens in a fraction, rounded down; at least 1, as in the authors' code."""
    return max(int(fraction * int(mask.sum())), 1)


def at_indices(indices: Tensor, mask: Tensor) -> Tensor:
    """A bool tensor like ``mask`` [B, T], True at the flat indices, int64 [n]."""
    chosen = torch.zeros_like(mask).flatten()
    chosen[indices] = True
    return chosen.view_as(mask)
