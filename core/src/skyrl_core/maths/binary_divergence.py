"""Divergences of two policies at one token, with two outcomes: the sampled token or any other.

They bound the divergences of the full distributions from below and need only the log-prob of the sampled token. Both
arguments are float, of the same shape. Reference: DPPO, arXiv 2602.04879 (binary total variation and binary KL).
"""

import torch
from torch import Tensor

# With a probability of 1, the other outcome would have log-prob log 0. As a log-prob, float32 still resolves 1 - 1e-8.
_LARGEST_LOG_PROB = -1e-8


def probability_change(log_probs: Tensor, anchor_log_probs: Tensor) -> Tensor:
    """pi - anchor at the sampled token; its absolute value is the binary total variation."""
    return log_probs.clamp(max=0).exp() - anchor_log_probs.clamp(max=0).exp()


def binary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the two outcomes, p log(p / q) + (1 - p) log((1 - p) / (1 - q)), in nats.

    Probabilities are clamped to at most 1 - 1e-8, so that the result is finite.
    """
    log_p, log_q = log_p.clamp(max=_LARGEST_LOG_PROB), log_q.clamp(max=_LARGEST_LOG_PROB)
    return log_p.exp() * (log_p - log_q) - torch.expm1(log_p) * (_log_complement(log_p) - _log_complement(log_q))


def _log_complement(log_p: Tensor) -> Tensor:
    # expm1: 1 - exp(x) loses every digit of a probability near 1.
    return torch.log(-torch.expm1(log_p))
