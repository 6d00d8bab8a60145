"""Tensor functions for loss authors: ratios, clips, KL estimates, masked means, off-policy weights.

Shapes: B sequences, T response tokens, right padded.
"""

from skyrl_core.maths.binary_divergence import binary_kl, probability_change
from skyrl_core.maths.covariance import at_indices, by_covariance, share_of_tokens, token_covariance
from skyrl_core.maths.kl import kl_estimate, kl_loss
from skyrl_core.maths.masked import masked_mean, masked_sum, sequence_mean
from skyrl_core.maths.off_policy import OffPolicyCorrection, correction_metrics, mismatch_metrics
from skyrl_core.maths.ratio import LOG_RATIO_LIMIT, bounded, clip_metrics, clipped_surrogate, ratio_metrics

__all__ = [
    "LOG_RATIO_LIMIT",
    "OffPolicyCorrection",
    "at_indices",
    "binary_kl",
    "bounded",
    "by_covariance",
    "clip_metrics",
    "clipped_surrogate",
    "correction_metrics",
    "kl_estimate",
    "kl_loss",
    "masked_mean",
    "masked_sum",
    "mismatch_metrics",
    "probability_change",
    "ratio_metrics",
    "sequence_mean",
    "share_of_tokens",
    "token_covariance",
]
