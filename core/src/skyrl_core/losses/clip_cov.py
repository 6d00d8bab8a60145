"""Clip-Cov: PPO's clip, and no gradient for a few high-covariance tokens that lower the entropy most.

Loss of a token: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and 0 at the chosen tokens. Candidates are the
unclipped tokens whose covariance (log pi - mean) (A - mean) lies between clip_cov_lb and
clip_cov_ub; of these, clip_cov_ratio times the number of all tokens are chosen at random. Reference: Clip-Cov, arXiv
2505.22617, with the defaults and the minimum of one token of the authors' code.

Means, number and choice cover the entire minibatch of all ranks and are computed once in ``prepare``. The random choice
is seeded with the optimizer step: the same minibatch at the same step gives the same tokens, in any order of the
sequences.
"""

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, PolicyLoss, Prepared, TokenLosses
from skyrl_core.losses.params import ClipCovParams
from skyrl_core.maths import (
    at_indices,
    bounded,
    by_covariance,
    clip_metrics,
    clipped_surrogate,
    ratio_metrics,
    share_of_tokens,
    token_covariance,
)


def candidates(ratio: Tensor, covariance: Tensor, advantages: Tensor, mask: Tensor, params: ClipCovParams) -> Tensor:
    """The tokens that may lose their gradient: [B, T] each -> bool [B, T]."""
    clipped = ((ratio < 1 - params.clip_low) & (advantages < 0)) | ((ratio > 1 + params.clip_high) & (advantages > 0))
    return mask & ~clipped & (covariance > params.clip_cov_lb) & (covariance < params.clip_cov_ub)


class ClipCovLoss(PolicyLoss):
    """The clipped surrogate without the chosen tokens."""

    name = "clip_cov"
    Params = ClipCovParams
    api_version = 1
    semantics_version = 1
    reference = "Clip-Cov, arXiv 2505.22617"

    def prepare(self, minibatch: LossBatch) -> Prepared:
        """``dropped``, bool [B, T]: the chosen tokens."""
        params: ClipCovParams = self.params
        ratio = bounded(minibatch.log_probs - minibatch.old_log_probs).exp()
        covariance = token_covariance(minibatch.log_probs, minibatch.advantages, minibatch.mask)
        among = candidates(ratio, covariance, minibatch.advantages, minibatch.mask, params)
        ordered = by_covariance(covariance, minibatch.log_probs, among)
        generator = torch.Generator().manual_seed(minibatch.step)
        count = share_of_tokens(params.clip_cov_ratio, minibatch.mask)
        chosen = torch.randperm(len(ordered), generator=generator)[:count]
        return Prepared(per_token={"dropped": at_indices(ordered[chosen.to(ordered.device)], minibatch.mask)})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; ``kept_fraction`` excludes the chosen tokens, not the clipped ones."""
        bounds = {"clip_low": self.params.clip_low, "clip_high": self.params.clip_high}
        dropped = batch.prepared["dropped"]
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(ratio, batch.advantages, batch.mask, **bounds)
        metrics["kept_fraction"] = Metric.mean(~dropped, batch.mask)
        values = torch.where(dropped, 0.0, clipped_surrogate(ratio, batch.advantages, **bounds))
        return TokenLosses(values=values, metrics=metrics)
