"""Divergences of two policies at one token, seen as a coin: the sampled token or any other. Any one shape, float.

They bound the divergences of the full distributions from below and need nothing but the log-prob of the sampled
token. Reference: DPPO, arXiv 2602.04879 (binary total variation and binary KL).
"""

import torch
from torch import Tensor

# A probability of 1 gives the other side of the coin log 0. float32 still tells 1 - 1e-8 apart in the logarithm.
_LARGEST_LOG_PROB = -1e-8


def probability_change(log_probs: Tensor, anchor_log_probs: Tensor) -> Tensor:
    """pi - anchor at the sampled token; its absolute value is the binary total variation."""
    return log_probs.clamp(max=0).exp() - anchor_log_probs.clamp(max=0).exp()


def binary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of the two coins, p log(p / q) + (1 - p) log((1 - p) / (1 - q)), in nats.

    Probabilities count as at most 1 - 1e-8, so that it is finite.
    """
    log_p, log_q = log_p.clamp(max=_LARGEST_LOG_PROB), log_q.clamp(max=_LARGEST_LOG_PROB)
    return log_p.exp() * (log_p - log_q) - torch.expm1(log_p) * (_log_complement(log_p) - _log_complement(log_q))


def _log_complement(log_p: Tensor) -> Tensor:
    # expm1: 1 - exp(x) loses every digit of a probability near 1.
    return torch.log(-torch.expm1(log_p))
