"""CPGD: PPO's clip on the logarithm of the ratio, and a penalty on the drift from the old policy.

With d = log pi - log pi_old the loss of a token is
-min(d A, clip(d, log(1 - clip_low), log(1 + clip_high)) A) + drift_coef KL(pi_old || pi). The gradient of the first
term is that of -A log pi, without a ratio that could amplify it, and is zero where PPO's clip makes it zero. The
divergence is estimated at the token by k3, (r - 1) - d, with r = exp(d), whose gradient is (r - 1) grad log pi.
Reference: arXiv 2505.12504; the default coefficient is that of the authors' code, which also clips the drift's
gradient.
"""

import math

import torch
from torch import Tensor

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.losses.params import CpgdParams
from skyrl_core.maths import bounded, clip_metrics, kl_estimate, ratio_metrics


def clipped_log_ratio(log_ratio: Tensor, advantages: Tensor, params: CpgdParams) -> Tensor:
    """-min(d A, clip(d, log(1 - clip_low), log(1 + clip_high)) A): [B, T], [B, T] -> [B, T]."""
    clipped = log_ratio.clamp(math.log1p(-params.clip_low), math.log1p(params.clip_high))
    return -torch.minimum(log_ratio * advantages, clipped * advantages)


class CpgdLoss(PolicyLoss):
    """The clipped log-ratio, and the drift."""

    name = "cpgd"
    Params = CpgdParams
    api_version = 1
    semantics_version = 1
    reference = "CPGD, arXiv 2505.12504"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss, its two terms and metrics of every token."""
        params: CpgdParams = self.params
        log_ratio = batch.log_probs - batch.old_log_probs
        ratio = bounded(log_ratio).exp()
        policy = clipped_log_ratio(log_ratio, batch.advantages, params)
        drift = params.drift_coef * kl_estimate(batch.old_log_probs, batch.log_probs, "k3")
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(
            ratio, batch.advantages, batch.mask, clip_low=params.clip_low, clip_high=params.clip_high
        )
        return TokenLosses(values=policy + drift, terms={"policy": policy, "drift": drift}, metrics=metrics)
