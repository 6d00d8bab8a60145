"""Policy gradient with an importance ratio and no clip.

Loss of a token: -r A, with r = exp(log pi - log pi_old). With one optimizer step per rollout, r = 1 and the gradient is
that of REINFORCE. Reference: PPO, arXiv 1707.06347, eq. 6, there called L^CPI.
"""

from torch import Tensor

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.losses.params import StandardParams
from skyrl_core.maths import bounded, ratio_metrics


def policy_gradient(ratio: Tensor, advantages: Tensor) -> Tensor:
    """-r A: [B, T], [B, T] -> [B, T]."""
    return -ratio * advantages


class StandardLoss(PolicyLoss):
    """-r A for every token."""

    name = "standard"
    Params = StandardParams
    api_version = 1
    semantics_version = 1
    reference = "PPO, arXiv 1707.06347, eq. 6"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        return TokenLosses(
            values=policy_gradient(ratio, batch.advantages), metrics=ratio_metrics(ratio, log_ratio, batch.mask)
        )
