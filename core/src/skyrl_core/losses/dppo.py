"""DPPO: a trust region in probability instead of in the ratio.

Loss of a token: -r A, gradient through r = pi / anchor, and 0 where the update would move further out of the trust
region: where A > 0, pi > anchor and the divergence exceeds delta_high, or A < 0, pi < anchor and it exceeds delta_low.
The divergence is estimated from the sampled token only. ``binary_tv``: |pi - anchor|. ``binary_kl``:
KL(anchor || pi) of the sampled token against all others. A ratio clip stops rare tokens after a tiny change of
probability and lets frequent ones move far; this does not. Reference: arXiv 2602.04879; there the anchor is the
policy that sampled, and the ratio is not truncated.
"""

from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import DppoParams
from skyrl_core.losses.standard import policy_gradient
from skyrl_core.maths import binary_kl, bounded, probability_change, ratio_metrics


def outside(log_probs: Tensor, anchor_log_probs: Tensor, params: DppoParams) -> tuple[Tensor, Tensor]:
    """Whether pi is too far below, and too far above the anchor: [B, T], [B, T] -> bool [B, T] each."""
    if params.kind == "binary_tv":
        change = probability_change(log_probs, anchor_log_probs)
        return change < -params.delta_low, change > params.delta_high
    divergence = binary_kl(anchor_log_probs, log_probs)
    below = (log_probs < anchor_log_probs) & (divergence > params.delta_low)
    return below, (log_probs > anchor_log_probs) & (divergence > params.delta_high)


class DppoLoss(PolicyLoss):
    """-r A where the divergence allows it."""

    name = "dppo"
    Params = DppoParams
    api_version = 1
    semantics_version = 1
    reference = "DPPO, arXiv 2602.04879"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        """Only the log-probs of the anchor."""
        return frozenset({Need.OLD_LOG_PROBS if params.anchor == "old" else Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        anchor = batch.old_log_probs if self.params.anchor == "old" else batch.rollout_log_probs
        log_ratio = bounded(batch.log_probs - anchor)
        ratio = log_ratio.exp()
        below, above = outside(batch.log_probs.detach(), anchor, self.params)
        low, high = below & (batch.advantages < 0), above & (batch.advantages > 0)
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics["clip_fraction_low"] = Metric.mean(low, batch.mask)
        metrics["clip_fraction_high"] = Metric.mean(high, batch.mask)
        metrics["kept_fraction"] = Metric.mean(~(low | high), batch.mask)
        values = torch.where(low | high, 0.0, policy_gradient(ratio, batch.advantages))
        return TokenLosses(values=values, metrics=metrics)
