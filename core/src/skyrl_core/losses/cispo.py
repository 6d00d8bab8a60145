"""CISPO: clips the importance weight, not the update, so that every token keeps a gradient.

Loss of a token: -sg(clamp(r, 1 - clip_low, 1 + clip_high)) A log pi, with r = exp(log pi - log anchor) and sg the
stop-gradient. Its value is not an objective; only its gradient is meaningful. Reference: MiniMax-M1, arXiv
2506.13585, eqs. 4 and 5.

Here clip_low and clip_high are the paper's offsets from 1, as in SkyRL, verl, slime, NeMo-RL and AReaL. In TRL,
Liger and Tinker the numbers are the bounds themselves: their upper bound 5 is clip_high = 4. The paper sets no lower
bound (clip_low = 1 here: a ratio is never below 0) and publishes no value for the upper one; the default interval
[0, 5] is SkyRL's. PPO's 0.2 is not a sensible value: it would clamp the weight of almost every token that has changed.
"""

from typing import Any

from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import CispoParams
from skyrl_core.maths import bounded, ratio_metrics


def cispo(log_probs: Tensor, ratio: Tensor, advantages: Tensor, params: CispoParams) -> Tensor:
    """-sg(clamped ratio) A log pi: [B, T] each -> [B, T]."""
    weight = ratio.detach().clamp(1 - params.clip_low, 1 + params.clip_high)
    return -weight * advantages * log_probs


class CispoLoss(PolicyLoss):
    """Policy gradient of log pi, weighted by the clamped ratio."""

    name = "cispo"
    Params = CispoParams
    api_version = 1
    semantics_version = 1
    reference = "CISPO, MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        """Only the log-probs of the anchor."""
        return frozenset({Need.OLD_LOG_PROBS if params.anchor == "old" else Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; the clip fractions count tokens whose weight is clamped."""
        params: CispoParams = self.params
        anchor = batch.old_log_probs if params.anchor == "old" else batch.rollout_log_probs
        log_ratio = bounded(batch.log_probs - anchor)
        ratio = log_ratio.exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics["clip_fraction_low"] = Metric.mean(ratio < 1 - params.clip_low, batch.mask)
        metrics["clip_fraction_high"] = Metric.mean(ratio > 1 + params.clip_high, batch.mask)
        return TokenLosses(values=cispo(batch.log_probs, ratio, batch.advantages, params), metrics=metrics)
