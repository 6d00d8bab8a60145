"""Decoupled PPO: the clip is around one policy, the samples come from another.

Loss of a token: -w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), with r = pi / pi_old around the proximal policy
pi_old, the trainer's policy before the update, and w = pi_old / mu, mu the rollout engine's policy.
Tokens with w > behave_cap are dropped, as in AReaL (``behav_imp_weight_cap``), not truncated to it. Reference: AReaL,
arXiv 2505.24298; J. Hilton et al., arXiv 2110.00641.
"""

from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import DecoupledPpoParams
from skyrl_core.maths import bounded, clip_metrics, clipped_surrogate, ratio_metrics


def behaviour_weight(old_log_probs: Tensor, rollout_log_probs: Tensor, cap: float | None) -> Tensor:
    """pi_old / mu, 0 where it exceeds the cap: [B, T], [B, T] -> [B, T]."""
    weight = bounded(old_log_probs - rollout_log_probs).exp()
    return weight if cap is None else torch.where(weight > cap, 0.0, weight)


class DecoupledPpoLoss(PolicyLoss):
    """The clipped surrogate around the proximal policy, weighted for the policy that sampled."""

    name = "decoupled_ppo"
    Params = DecoupledPpoParams
    api_version = 1
    semantics_version = 1
    reference = "Decoupled PPO, AReaL, arXiv 2505.24298, and arXiv 2110.00641"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """The log-probs of the proximal policy and of the rollout engine."""
        return frozenset({Need.OLD_LOG_PROBS, Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        bounds = {"clip_low": self.params.clip_low, "clip_high": self.params.clip_high}
        weight = behaviour_weight(batch.old_log_probs, batch.rollout_log_probs, self.params.behave_cap)
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(ratio, batch.advantages, batch.mask, **bounds)
        metrics["behave_weight_mean"] = Metric.mean(weight, batch.mask)
        metrics["kept_fraction"] = Metric.mean(weight > 0, batch.mask)
        return TokenLosses(values=weight * clipped_surrogate(ratio, batch.advantages, **bounds), metrics=metrics)
