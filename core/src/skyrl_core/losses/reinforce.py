"""REINFORCE: the policy gradient itself, for one optimizer step per rollout.

Loss of a token: -A log pi. Its value is not an objective; its gradient is the policy gradient only for tokens that the
current policy sampled: nothing corrects for older ones. Reference: R. J. Williams, Machine Learning 8 (1992);
for language models GPG, arXiv 2504.02546, which averages over all tokens (loss_reduction ``token_mean``).
"""

from typing import Any

from torch import Tensor

from skyrl_core import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import ReinforceParams


def reinforce(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-A log pi: [B, T], [B, T] -> [B, T]."""
    return -advantages * log_probs


class ReinforceLoss(PolicyLoss):
    """-A log pi for every token."""

    name = "reinforce"
    Params = ReinforceParams
    api_version = 1
    semantics_version = 1
    reference = "REINFORCE, Williams 1992; GPG, arXiv 2504.02546"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """Nothing: the loss uses no other policy."""
        return frozenset()

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss of every token."""
        return TokenLosses(values=reinforce(batch.log_probs, batch.advantages))
