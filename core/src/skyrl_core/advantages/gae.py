"""Generalised advantage estimation: how much better a token was than a value model expected."""

import torch
from torch import Tensor

from skyrl_core import AdvantageBatch, AdvantageEstimator
from skyrl_core.advantages.params import GaeParams
from skyrl_core.advantages.tokens import rewards_of_tokens, whitened


class Gae(AdvantageEstimator):
    """A_t = sum over l of (gamma lam)^l d_(t+l), with d_t = r_t + gamma V_(t+1) - V_t and V = 0 after the last token.

    GAE, arXiv 1506.02438, eqs. 14 and 16. The outcome is the reward of the last token; any token may have a further
    reward. t + 1 is the next token that the policy generated: other text, such as the answer of a tool, is not a step.
    """

    name = "gae"
    Params = GaeParams
    needs_values = True

    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages [N, T], 0 where masked.

        Raises:
            ValueError: the batch has no mask or no values.
        """
        if batch.mask is None or batch.values is None:
            raise ValueError("advantage estimator 'gae' needs a value model: pass a mask and values to AdvantageBatch")
        mask, values = batch.mask, torch.where(batch.mask, batch.values, 0.0).to(torch.float64)
        earned = rewards_of_tokens(batch.rewards, batch.token_rewards, mask)
        advantages = torch.zeros_like(values)
        later_value, later_advantage = values.new_zeros(len(values)), values.new_zeros(len(values))
        for t in reversed(range(mask.shape[1])):
            td_error = earned[:, t] + self.params.gamma * later_value - values[:, t]
            advantage = td_error + self.params.gamma * self.params.lam * later_advantage
            advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
            later_value = torch.where(mask[:, t], values[:, t], later_value)
            later_advantage = torch.where(mask[:, t], advantage, later_advantage)
        if self.params.whiten:
            advantages = whitened(advantages, mask, self.params.epsilon)
        return advantages.to(batch.rewards.dtype)
