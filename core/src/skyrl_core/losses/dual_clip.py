"""PPO with separate clip bounds and a second clip for tokens with a negative advantage.

Loss of a token: L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and where A < 0: min(L, -c A). PPO leaves the
loss unbounded when a bad token becomes likelier; c bounds it. ``clip_ratio_c: null`` is PPO; clip_high > clip_low is
the clip-higher of DAPO, arXiv 2503.14476. Reference: arXiv 1912.09729, eq. 5; PPO: arXiv 1707.06347, eq. 7.
"""

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, PolicyLoss, TokenLosses
from skyrl_core.losses.params import DualClipParams
from skyrl_core.maths import bounded, clip_metrics, clipped_surrogate, ratio_metrics


def dual_clip(ratio: Tensor, advantages: Tensor, params: DualClipParams) -> Tensor:
    """The clipped surrogate, at most c |A| where A < 0: [B, T], [B, T] -> [B, T]."""
    losses = clipped_surrogate(ratio, advantages, clip_low=params.clip_low, clip_high=params.clip_high)
    if params.clip_ratio_c is None:
        return losses
    bound = -params.clip_ratio_c * advantages
    return torch.where(advantages < 0, torch.minimum(losses, bound), losses)


class DualClipLoss(PolicyLoss):
    """The clipped surrogate with a second bound where A < 0."""

    name = "dual_clip"
    Params = DualClipParams
    api_version = 1
    semantics_version = 1
    reference = "Dual-clip PPO, arXiv 1912.09729, eq. 5"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        params: DualClipParams = self.params
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(
            ratio, batch.advantages, batch.mask, clip_low=params.clip_low, clip_high=params.clip_high
        )
        if params.clip_ratio_c is not None:
            beyond = (batch.advantages < 0) & (ratio > params.clip_ratio_c)
            metrics["clip_fraction_dual"] = Metric.mean(beyond, batch.mask)
        return TokenLosses(values=dual_clip(ratio, batch.advantages, params), metrics=metrics)
