"""VESPO: REINFORCE with each sequence weighted by a smooth kernel of its importance weight.

With W = exp(sum over the sequence's tokens of (log pi - log mu)), mu the policy that sampled, the loss of a token is
-sg(W^k exp(lambda (1 - W))) A log pi, with k_pos, lambda_pos where A >= 0 and k_neg, lambda_neg where A < 0; sg is the
stop-gradient. The kernel is 1 at W = 1 and falls to 0 on both sides. W is not normalised by the length. Its value is
not an objective; only its gradient is meaningful. Reference: arXiv 2602.10693, with the defaults of its authors,
averaged over all tokens.

Here mu is the rollout engine's policy, so W covers staleness and the difference between rollout engine and trainer.
"""

from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import VespoParams
from skyrl_core.maths import LOG_RATIO_LIMIT, bounded, ratio_metrics


def kernel(log_weight: Tensor, advantages: Tensor, params: VespoParams) -> Tensor:
    """W^k exp(lambda (1 - W)): log W [B, T], A [B, T] -> [B, T]."""
    decay = 1 - log_weight.exp()
    good = params.k_pos * log_weight + params.lambda_pos * decay
    bad = params.k_neg * log_weight + params.lambda_neg * decay
    # The peak, at W = k / lambda, is a few units for sensible parameters and overflows for extreme ones.
    return torch.where(advantages >= 0, good, bad).clamp(max=LOG_RATIO_LIMIT).exp()


class VespoLoss(PolicyLoss):
    """Policy gradient of log pi, weighted by the kernel of the sequence's importance weight."""

    name = "vespo"
    Params = VespoParams
    api_version = 1
    semantics_version = 1
    reference = "VESPO, arXiv 2602.10693"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """The log-probs of the policy that sampled."""
        return frozenset({Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; the ratio of the metrics is W, the sequence's."""
        log_ratio = (batch.log_probs - batch.rollout_log_probs).detach()
        total = torch.where(batch.mask, log_ratio, 0.0).sum(-1, keepdim=True)
        log_weight = bounded(total).expand_as(log_ratio)
        weight = kernel(log_weight, batch.advantages, self.params)
        metrics = ratio_metrics(log_weight.exp(), log_ratio, batch.mask)
        metrics["kernel_mean"] = Metric.mean(weight, batch.mask)
        return TokenLosses(values=-weight * batch.advantages * batch.log_probs, metrics=metrics)
