"""GMPO: the geometric mean of clipped token ratios, one for each sequence.

With d = log pi - log pi_old, each token's d is clipped on one side, by the sign of its advantage:
d' = min(d, clip_high) where A >= 0, max(d, -clip_low) where A < 0. With s = exp(mean of d' over the sequence's tokens)
the loss of a sequence is -s A, averaged over sequences (loss_reduction ``sequence_mean``, the default of this loss).
Where A differs within a sequence, each token has -s times its A, which averages to -s times the mean of A.

The bounds are offsets of the *logarithm*: 0.4 allows ratios from exp(-0.4) = 0.67 to exp(0.4) = 1.49. Reference:
arXiv 2507.20673; the defaults are the paper's. The trainer averages over the entire minibatch, so the number of
micro-batches has no effect.
"""

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, PolicyLoss, TokenLosses
from skyrl_core.losses.params import GmpoParams
from skyrl_core.maths import bounded, ratio_metrics, sequence_mean


def geometric_mean_ratio(log_ratio: Tensor, advantages: Tensor, mask: Tensor, params: GmpoParams) -> Tensor:
    """The geometric mean of the sequence's clipped ratios for every token: [B, T] each -> [B, T]."""
    clipped = torch.where(advantages >= 0, log_ratio.clamp(max=params.clip_high), log_ratio.clamp(min=-params.clip_low))
    return bounded(sequence_mean(clipped, mask)).exp().unsqueeze(-1).expand_as(log_ratio)


class GmpoLoss(PolicyLoss):
    """-s A, with s the geometric mean of the clipped ratios of the sequence."""

    name = "gmpo"
    Params = GmpoParams
    api_version = 1
    semantics_version = 1
    reference = "GMPO, arXiv 2507.20673"
    default_reduction = "sequence_mean"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; the clip fractions count tokens whose gradient the clip removes."""
        params: GmpoParams = self.params
        log_ratio = batch.log_probs - batch.old_log_probs
        ratio = geometric_mean_ratio(log_ratio, batch.advantages, batch.mask, params)
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        below, above = log_ratio < -params.clip_low, log_ratio > params.clip_high
        metrics["clip_fraction_low"] = Metric.mean(below & (batch.advantages < 0), batch.mask)
        metrics["clip_fraction_high"] = Metric.mean(above & (batch.advantages > 0), batch.mask)
        return TokenLosses(values=-ratio * batch.advantages, metrics=metrics)
