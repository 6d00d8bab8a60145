"""OPO advantages: the reward minus the mean reward of its group, each sample weighted by its length."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import group_sums
from skyrl_core.advantages.params import OpoParams


class Opo(AdvantageEstimator):
    """A_i = R_i - (sum of l_j R_j) / (sum of l_j) over the samples j of the same prompt, l_j the length in tokens.

    OPO, arXiv 2505.23585: the baseline of least gradient variance, assuming that the squared gradient of a sample
    grows with its length. A group of one, or without a token, has advantage 0.
    """

    name = "opo"
    Params = OpoParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N].

        Raises:
            ValueError: the batch has no mask, so that lengths are unknown.
        """
        if batch.mask is None:
            raise ValueError("advantage estimator 'opo' weighs samples by their length: pass a mask to AdvantageBatch")
        lengths = batch.mask.sum(-1).to(torch.float64)
        totals = group_sums(lengths, batch.groups)
        rewards = batch.rewards.to(torch.float64)
        baseline = group_sums(lengths * rewards, batch.groups) / totals.clamp(min=1)
        return torch.where(totals > 0, rewards - baseline, 0.0).to(batch.rewards.dtype)
