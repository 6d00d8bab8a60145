"""Group-relative advantages: the reward minus the group's mean, over the group's standard deviation."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import centred, group_sizes, group_sums
from skyrl_core.advantages.params import GrpoParams


class Grpo(AdvantageEstimator):
    """A_i = (R_i - mean) / (std + epsilon) over the samples of the same prompt; std is the unbiased one (n - 1).

    GRPO, arXiv 2402.03300, section 4.1.2. Without the division (``norm_by_std=False``) it is the centring of Dr.GRPO,
    arXiv 2503.20783, which does not favour prompts whose rewards hardly differ.

    A group of one has advantage 0: its reward has nothing to be compared with. Trainers that use mean 0 and std 1 there
    return the raw reward, which is REINFORCE without a baseline for only these samples.
    """

    name = "grpo"
    Params = GrpoParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N]."""
        advantages = centred(batch.rewards, batch.groups)
        if self.params.norm_by_std:
            degrees = (group_sizes(batch.groups) - 1).clamp(min=1)
            std = torch.sqrt(group_sums(advantages.square(), batch.groups) / degrees)
            advantages = advantages / (std + self.params.epsilon)
        return advantages.to(batch.rewards.dtype)
