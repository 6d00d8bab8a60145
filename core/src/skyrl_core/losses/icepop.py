"""IcePop: the importance-weighted policy gradient, only where policy and rollout engine still agree.

Loss of a token: -r A, gradient through r = pi / mu, mu the rollout engine's policy, where
ratio_low <= r <= ratio_high, and 0 elsewhere: dropped, not clipped, whatever the sign of A. Reference: Ring-1T, arXiv
2510.18855, for the mask and the defaults, and INTELLECT-3, arXiv 2512.16144, eq. 1, for this form: on the single ratio
pi / mu, without PPO's clip, averaged over all tokens (loss_reduction ``token_mean``). A narrow band
1 - clip_low, 1 + clip_high is known as ``rollout_is``.
"""

import math
from typing import Any

import torch

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import IcepopParams
from skyrl_core.losses.standard import policy_gradient
from skyrl_core.maths import bounded, ratio_metrics


class IcepopLoss(PolicyLoss):
    """-r A inside the band of ratios."""

    name = "icepop"
    Params = IcepopParams
    api_version = 1
    semantics_version = 1
    reference = "IcePop, arXiv 2510.18855; INTELLECT-3, arXiv 2512.16144, eq. 1"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """The log-probs of the rollout engine."""
        return frozenset({Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; the clip fractions count dropped tokens, kept_fraction the others."""
        log_ratio = batch.log_probs - batch.rollout_log_probs
        below = log_ratio < math.log(self.params.ratio_low)
        above = log_ratio > math.log(self.params.ratio_high)
        ratio = bounded(log_ratio).exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics["clip_fraction_low"] = Metric.mean(below, batch.mask)
        metrics["clip_fraction_high"] = Metric.mean(above, batch.mask)
        metrics["kept_fraction"] = Metric.mean(~(below | above), batch.mask)
        values = torch.where(below | above, 0.0, policy_gradient(ratio, batch.advantages))
        return TokenLosses(values=values, metrics=metrics)
