"""Leave-one-out advantages: the reward minus the mean reward of the other samples of its group."""

from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import centred, group_sizes
from skyrl_core.advantages.params import RlooParams


class Rloo(AdvantageEstimator):
    """A_i = R_i - mean of R_j over j != i of the same prompt, which equals n / (n - 1) · (R_i - mean).

    RLOO, arXiv 2402.14740: an unbiased baseline, because it does not contain the sample itself. A group
    of one has no other sample, hence advantage 0.
    """

    name = "rloo"
    Params = RlooParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N]."""
        sizes = group_sizes(batch.groups)
        # A group of one: centred is 0 and stays 0.
        return (centred(batch.rewards, batch.groups) * sizes / (sizes - 1).clamp(min=1)).to(batch.rewards.dtype)
