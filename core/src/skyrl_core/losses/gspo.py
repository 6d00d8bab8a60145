"""GSPO: PPO's clip on the ratio of the entire sequence.

With log s = mean over the sequence's tokens of (log pi - log pi_old), the loss of a token is
-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), averaged over the tokens of each sequence and then over sequences
(loss_reduction ``sequence_mean``, the default of this loss).

``level`` decides where the gradient goes. ``sequence``: through s (arXiv 2507.18071, eqs. 5 and 7). ``token``: to
each token separately, s_t = sg(s) pi_t / sg(pi_t) (GSPO-token, eqs. 13 and 14). Where the advantage is the same for all
tokens of a sequence and the reduction is ``sequence_mean``, both have the same gradient.

The default clip bounds are the paper's. A sequence ratio is a mean and moves far less than a token's: PPO's 0.2 would
never clip.
"""

from typing import Literal

from torch import Tensor

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.losses.params import GspoParams
from skyrl_core.maths import bounded, clip_metrics, clipped_surrogate, ratio_metrics, sequence_mean


def sequence_ratio(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, level: Literal["token", "sequence"]
) -> Tensor:
    """The ratio of its sequence for every token: [B, T] each -> [B, T]; 1 where a sequence has no token."""
    log_ratio = sequence_mean(log_probs - old_log_probs, mask).unsqueeze(-1)
    if level == "sequence":
        return bounded(log_ratio).exp().expand_as(log_probs)
    # The difference in brackets is exactly zero, so the value is the sequence's to the last bit.
    return bounded(log_ratio.detach() + (log_probs - log_probs.detach())).exp()


class GspoLoss(PolicyLoss):
    """The clipped surrogate of sequence ratios."""

    name = "gspo"
    Params = GspoParams
    api_version = 1
    semantics_version = 1
    reference = "GSPO, arXiv 2507.18071, eqs. 5 and 7 (sequence), 13 and 14 (token)"
    default_reduction = "sequence_mean"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; a clipped sequence counts with all its tokens, as in the paper."""
        params: GspoParams = self.params
        ratio = sequence_ratio(batch.log_probs, batch.old_log_probs, batch.mask, params.level)
        metrics = ratio_metrics(ratio, batch.log_probs - batch.old_log_probs, batch.mask)
        metrics |= clip_metrics(
            ratio, batch.advantages, batch.mask, clip_low=params.clip_low, clip_high=params.clip_high
        )
        values = clipped_surrogate(ratio, batch.advantages, clip_low=params.clip_low, clip_high=params.clip_high)
        return TokenLosses(values=values, metrics=metrics)
