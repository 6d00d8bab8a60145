"""The advantages of Dr.GRPO: the reward minus the mean of its group, in the unit of the reward."""

from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import centred
from skyrl_core.advantages.params import DrGrpoParams


class DrGrpo(AdvantageEstimator):
    """A_i = R_i - mean over the samples of the same prompt.

    Dr.GRPO, arXiv 2503.20783: without GRPO's division by the standard deviation, which favours prompts whose rewards
    hardly differ. Its other half is the loss reduction ``sequence_sum_norm``. A group of one has advantage 0.
    """

    name = "dr_grpo"
    Params = DrGrpoParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N]."""
        return centred(batch.rewards, batch.groups).to(batch.rewards.dtype)
