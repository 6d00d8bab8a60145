"""Pass@k advantages: what the best sample of a group adds to the others."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import group_sizes
from skyrl_core.advantages.params import PassAtKParams


class PassAtK(AdvantageEstimator):
    """A_i = max of R_j over all j - max of R_j over j != i, of the same prompt; k is the size of the group.

    arXiv 2503.19595: the gradient of the expected best reward of k samples, with the best of the others as baseline.
    Only a unique best sample has an advantage: its margin over the second best. If several tie for the best, none has
    one. A group of one has no others, hence advantage 0.
    """

    name = "pass_at_k"
    Params = PassAtKParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N]."""
        rewards, groups = batch.rewards, batch.groups
        count = int(groups.max()) + 1 if len(groups) else 0
        lowest = rewards.new_full((count,), -torch.inf)
        best = lowest.scatter_reduce(0, groups, rewards, "amax")[groups]
        is_best = rewards == best
        below = lowest.scatter_reduce(0, groups, torch.where(is_best, -torch.inf, rewards), "amax")[groups]
        is_unique = torch.bincount(groups, weights=is_best.to(torch.float64))[groups] == 1
        earns = is_best & is_unique & (group_sizes(groups) > 1)
        return torch.where(earns, rewards - below, 0.0)
