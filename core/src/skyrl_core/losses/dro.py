"""DRO: the policy gradient with a quadratic pull towards the old policy; no ratio, no clip.

Loss of a token: -(A log pi - (beta / 2) (log pi - log pi_old)^2). The log-prob is pulled to log pi_old + A / beta.
Reference: Kimi k1.5, arXiv 2501.12599, eq. 3; DRO, arXiv 2405.19107. Both treat the response as one action and
square the log-ratio of the entire sequence; here each token is an action, as in the trainers that offer this loss, so
that the pull does not grow with the square of the length.
"""

from torch import Tensor

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.losses.params import DroParams
from skyrl_core.maths import bounded, ratio_metrics


def quadratic_pull(log_ratio: Tensor, beta: float) -> Tensor:
    """(beta / 2) (log pi - log pi_old)^2: [B, T] -> [B, T]."""
    return beta / 2 * log_ratio.square()


class DroLoss(PolicyLoss):
    """-A log pi, and a quadratic pull."""

    name = "dro"
    Params = DroParams
    api_version = 1
    semantics_version = 1
    reference = "Kimi k1.5, arXiv 2501.12599, eq. 3, and DRO, arXiv 2405.19107, per token"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss, its two terms and metrics of every token."""
        log_ratio = batch.log_probs - batch.old_log_probs
        policy, pull = -batch.advantages * batch.log_probs, quadratic_pull(log_ratio, self.params.beta)
        metrics = ratio_metrics(bounded(log_ratio).exp(), log_ratio, batch.mask)
        return TokenLosses(values=policy + pull, terms={"policy": policy, "pull": pull}, metrics=metrics)
