"""SAPO: a soft gate instead of the clip; the gradient fades as the ratio leaves 1.

Loss of a token: -(4 / tau) sigmoid(tau (r - 1)) A, with r = exp(log pi - log pi_old) and tau = tau_pos where A > 0,
tau_neg elsewhere, averaged over the tokens of each sequence and then over sequences (loss_reduction
``sequence_mean``, the default of this loss). The gradient is that of -r A times the gate 4 p (1 - p), p the sigmoid:
1 at r = 1, smaller on both sides. A larger temperature fades faster; the paper's tau_neg > tau_pos distrusts bad
tokens more. Reference: arXiv 2511.20347.
"""

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, PolicyLoss, TokenLosses
from skyrl_core.losses.params import SapoParams
from skyrl_core.maths import bounded, ratio_metrics


def soft_gated_surrogate(ratio: Tensor, advantages: Tensor, temperature: Tensor) -> Tensor:
    """-(4 / tau) sigmoid(tau (r - 1)) A: [B, T] each -> [B, T]."""
    return -4 / temperature * torch.sigmoid(temperature * (ratio - 1)) * advantages


class SapoLoss(PolicyLoss):
    """The soft-gated surrogate, with a temperature for each sign of the advantage."""

    name = "sapo"
    Params = SapoParams
    api_version = 1
    semantics_version = 1
    reference = "SAPO, arXiv 2511.20347"
    default_reduction = "sequence_mean"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; ``gate_mean`` is the mean share of its gradient that a token keeps."""
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        # full_like keeps the dtype: float64 in gives float64 out.
        warm, cold = (torch.full_like(batch.log_probs, tau) for tau in (self.params.tau_pos, self.params.tau_neg))
        temperature = torch.where(batch.advantages > 0, warm, cold)
        sigmoid = torch.sigmoid(temperature * (ratio - 1))
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics["gate_mean"] = Metric.mean(4 * sigmoid * (1 - sigmoid), batch.mask)
        return TokenLosses(values=soft_gated_surrogate(ratio, batch.advantages, temperature), metrics=metrics)
