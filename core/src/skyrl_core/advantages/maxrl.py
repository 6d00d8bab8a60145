"""MaxRL advantages: the reward minus the mean of its group, divided by that mean."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import centred, group_sizes, group_sums
from skyrl_core.advantages.params import MaxrlParams


class Maxrl(AdvantageEstimator):
    """A_i = (R_i - mean) / mean over the samples of the same prompt, and 0 where no sample has a reward.

    MaxRL, arXiv 2602.02710: its expectation is the gradient of the log-likelihood of success, up to the order that the
    group size allows, instead of that of the success rate, so that a rare success on a hard prompt counts for more.
    Rewards are 0 or 1 in the paper; any other non-negative rewards work too.
    """

    name = "maxrl"
    Params = MaxrlParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N].

        Raises:
            ValueError: a reward is negative.
        """
        if (batch.rewards < 0).any():
            index = int((batch.rewards < 0).nonzero()[0])
            raise ValueError(
                f"advantage estimator 'maxrl' divides by the mean reward and takes no negative rewards: the reward of "
                f"sample {index} is {float(batch.rewards[index]):g}; use rewards of at least 0, or dr_grpo"
            )
        means = group_sums(batch.rewards, batch.groups) / group_sizes(batch.groups)
        advantages = centred(batch.rewards, batch.groups) / torch.where(means > 0, means, 1.0)
        return advantages.to(batch.rewards.dtype)
