"""The importance ratio: its bound, its clip and its metrics. Shapes: B sequences, T response tokens."""

import math

import torch
from torch import Tensor

from skyrl_core.contract.metric import Metric
from skyrl_core.maths.kl import kl_estimate

LOG_RATIO_LIMIT = 20.0


def bounded(log_ratio: Tensor) -> Tensor:
    """The log-ratio clamped to ±20, with zero gradient outside; any shape."""
    # exp overflows float32 at 88.7, its square at 44. exp(20) = 4.9e8 is far above any ratio that is still
    # informative, and thousands of such tokens can be summed. Outside, the gradient is zero instead of staying at
    # exp(20): one broken token must not dominate the gradient norm of the batch.
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, *, clip_low: float | None, clip_high: float | None) -> Tensor:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), PPO, arXiv 1707.06347, eq. 7: [B, T], [B, T] -> [B, T].

    None leaves a side unclipped.
    """
    low, high = _interval(clip_low, clip_high)
    return -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)


def ratio_metrics(ratio: Tensor, log_ratio: Tensor, mask: Tensor) -> dict[str, Metric]:
    """Mean and maximum of the ratio of a loss, and KL(old || policy) of its tokens (k3). All [B, T].

    Args:
        ratio: the ratio that the loss uses, the token's or its sequence's.
        log_ratio: log policy - log old of the token itself.
        mask: bool.
    """
    log_ratio = log_ratio.detach()
    return {
        "ratio_mean": Metric.mean(ratio, mask),
        "ratio_max": Metric.max(ratio, mask),
        "approx_kl": Metric.mean(kl_estimate(torch.zeros_like(log_ratio), log_ratio, "k3"), mask),
    }


def clip_metrics(
    ratio: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float | None, clip_high: float | None
) -> dict[str, Metric]:
    """Shares of tokens whose gradient the clip removes, below (A < 0) and above (A > 0). All [B, T]."""
    low, high = _interval(clip_low, clip_high)
    return {
        "clip_fraction_low": Metric.mean((ratio < low) & (advantages < 0), mask),
        "clip_fraction_high": Metric.mean((ratio > high) & (advantages > 0), mask),
    }


def _interval(clip_low: float | None, clip_high: float | None) -> tuple[float, float]:
    return 0.0 if clip_low is None else 1.0 - clip_low, math.inf if clip_high is None else 1.0 + clip_high
