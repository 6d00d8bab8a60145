"""REINFORCE++ advantages: returns normalised by the mean and standard deviation of the entire batch."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.group import group_sizes, group_sums
from skyrl_core.advantages.params import ReinforcePpParams
from skyrl_core.advantages.tokens import returns_to_go, rewards_of_tokens, whitened


class ReinforcePp(AdvantageEstimator):
    """A_t = (G_t - mean) / (std + epsilon) over all tokens of the batch; std is that of the population.

    REINFORCE++, arXiv 2501.03262: one baseline for all prompts instead of one for each. G_t is the return from
    token t on: the reward of its sample, unless individual tokens have rewards, such as a KL penalty. With ``baseline``
    the mean reward of the group is subtracted first (REINFORCE++-baseline), so that prompts may differ in difficulty.
    Equal returns have advantage 0.
    """

    name = "reinforce_pp"
    Params = ReinforcePpParams

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N, T], 0 where masked; without a mask a sample is one token, and they are [N]."""
        mask = torch.ones_like(batch.groups, dtype=torch.bool)[:, None] if batch.mask is None else batch.mask
        returns = returns_to_go(rewards_of_tokens(batch.rewards, batch.token_rewards, mask))
        if self.params.baseline:
            means = group_sums(batch.rewards, batch.groups) / group_sizes(batch.groups)
            returns = returns - means.unsqueeze(-1)
        advantages = whitened(returns, mask, self.params.epsilon).to(batch.rewards.dtype)
        return advantages.squeeze(-1) if batch.mask is None else advantages
