"""Off-policy correction: weights for samples that another policy than the trained one generated.

With w_t = pi_old(t) / mu(t), where mu is the policy that the rollout engine sampled from, each token's loss is
multiplied by a weight without gradient. mu differs from pi_old in numerics (kernels, precision) and in staleness.

- ``token``: w_t. Truncated at ``high`` it is TIS (https://fengyao.notion.site/off-policy-rl); with ``outside: mask`` it
  is IcePop (arXiv 2510.18855). Biased, of low variance.
- ``sequence``: the product of w_t over the sequence, the unbiased weight; its variance grows with the length.
- ``geometric``: the geometric mean of w_t over the sequence, length-normalised, biased.

Weights outside [low, high] become the nearest bound (``truncate``) or 0 (``mask``). Independently, a ``band`` drops
entire sequences: those whose product or geometric mean of w_t, or any single w_t (``token``), lies outside
[band_low, band_high]. Dropped tokens still count in the denominators of the reduction, so that dropping
never raises the weight of the others.
"""

import torch
from torch import Tensor

from skyrl_core.contract.metric import Metric
from skyrl_core.maths.kl import kl_estimate
from skyrl_core.maths.masked import sequence_mean
from skyrl_core.maths.ratio import bounded
from skyrl_core.parameters.algorithm_options import OffPolicyOptions


class OffPolicyCorrection(OffPolicyOptions):
    """The options of a correction, and the weights that they give to tokens."""

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.weight != "none" or self.band != "none"

    def factors(self, old_log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor) -> Tensor:
        """The weight of each token, without gradient: float, float, bool [B, T] -> [B, T]; 0 where masked."""
        log_ratio = torch.where(mask, old_log_probs - rollout_log_probs, 0.0).detach()
        factors = torch.ones_like(log_ratio)
        if self.weight != "none":
            weight = _per_token(log_ratio, mask, self.weight)
            inside = (weight >= self.low) & (weight <= self.high)
            limited = weight.clamp(self.low, self.high)
            factors = limited if self.outside == "truncate" else torch.where(inside, weight, 0.0)
        if self.band != "none":
            factors = torch.where(self._kept(log_ratio, mask), factors, 0.0)
        return torch.where(mask, factors, 0.0)

    def _kept(self, log_ratio: Tensor, mask: Tensor) -> Tensor:
        level = "sequence" if self.band == "product" else self.band
        ratio = _per_token(log_ratio, mask, level)
        outside = mask & ((ratio < self.band_low) | (ratio > self.band_high))
        return ~outside.any(-1, keepdim=True).expand_as(mask)


def _per_token(log_ratio: Tensor, mask: Tensor, level: str) -> Tensor:
    """The ratio used for each token: the token's or its sequence's."""
    if level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(mask)
    elif level == "geometric":
        log_ratio = sequence_mean(log_ratio, mask).unsqueeze(-1).expand_as(mask)
    return bounded(log_ratio).exp()


def mismatch_metrics(old_log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor) -> dict[str, Metric]:
    """How much trainer and rollout engine differ on the same tokens. float [B, T], [B, T], bool [B, T].

    ``mismatch_kl`` estimates KL(rollout engine || trainer) in nats (k3); ``mismatch_ratio_max`` is the largest pi_old /
    mu.
    """
    log_ratio = torch.where(mask, old_log_probs - rollout_log_probs, 0.0).detach()
    return {
        "mismatch_kl": Metric.mean(kl_estimate(rollout_log_probs.detach(), old_log_probs.detach(), "k3"), mask),
        "mismatch_ratio_max": Metric.max(bounded(log_ratio).exp(), mask),
    }


def correction_metrics(factors: Tensor, mask: Tensor) -> dict[str, Metric]:
    """Mean weight, largest weight and the share of tokens that a correction keeps. float, bool [B, T]."""
    return {
        "correction_mean": Metric.mean(factors, mask),
        "correction_max": Metric.max(factors, mask),
        "correction_kept": Metric.mean(factors > 0, mask),
    }
