"""KPop: the importance-weighted policy gradient; tokens with a large binary KL are dropped.

Loss of a token: -r A, gradient through r = pi / mu, mu the rollout engine's policy, where
max(KL(pi || mu), KL(mu || pi)) <= phi, and 0 elsewhere, whatever the sign of A. Both divergences are of the sampled
token against all others. IcePop's fixed band of ratios lets a frequent token move far and drops a rare one at once;
this region is wide for rare tokens and narrow for frequent ones. Reference: the KPop article of the Ring team,
https://ringtech.notion.site/kpop.
"""

from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import KpopParams
from skyrl_core.losses.standard import policy_gradient
from skyrl_core.maths import binary_kl, bounded, ratio_metrics


def larger_binary_kl(log_probs: Tensor, rollout_log_probs: Tensor) -> Tensor:
    """max(KL(pi || mu), KL(mu || pi)) of the sampled token against all others: [B, T], [B, T] -> [B, T]."""
    return torch.maximum(binary_kl(log_probs, rollout_log_probs), binary_kl(rollout_log_probs, log_probs))


class KpopLoss(PolicyLoss):
    """-r A where both binary divergences are small."""

    name = "kpop"
    Params = KpopParams
    api_version = 1
    semantics_version = 1
    reference = "KPop, https://ringtech.notion.site/kpop"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """The log-probs of the rollout engine."""
        return frozenset({Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        log_ratio = bounded(batch.log_probs - batch.rollout_log_probs)
        ratio = log_ratio.exp()
        divergence = larger_binary_kl(batch.log_probs.detach(), batch.rollout_log_probs)
        kept = divergence <= self.params.phi
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics["kept_fraction"] = Metric.mean(kept, batch.mask)
        metrics["binary_kl_max"] = Metric.max(divergence, batch.mask)
        return TokenLosses(values=torch.where(kept, policy_gradient(ratio, batch.advantages), 0.0), metrics=metrics)
