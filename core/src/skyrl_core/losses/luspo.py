"""LUSPO: GSPO's clipped sequence ratio, with each sequence weighted by its length.

With log s = mean over the sequence's tokens of (log pi - log pi_old), the loss of a sequence is
-|y| min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), averaged over sequences. Here that is GSPO's loss at each of the
|y| tokens, summed over the sequence (loss_reduction ``sequence_sum``, the default of this loss): its gradient,
s A times the sum over the tokens of grad log pi, does not shrink with the length. Reference: arXiv 2602.05261; the
default bounds are those of its section 5.1.
"""

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.losses.gspo import sequence_ratio
from skyrl_core.losses.params import LuspoParams
from skyrl_core.maths import clip_metrics, clipped_surrogate, ratio_metrics


class LuspoLoss(PolicyLoss):
    """The clipped surrogate of sequence ratios, once for every token."""

    name = "luspo"
    Params = LuspoParams
    api_version = 1
    semantics_version = 1
    reference = "LUSPO, arXiv 2602.05261"
    default_reduction = "sequence_sum"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token; a clipped sequence counts with all its tokens."""
        bounds = {"clip_low": self.params.clip_low, "clip_high": self.params.clip_high}
        ratio = sequence_ratio(batch.log_probs, batch.old_log_probs, batch.mask, "sequence")
        metrics = ratio_metrics(ratio, batch.log_probs - batch.old_log_probs, batch.mask)
        metrics |= clip_metrics(ratio, batch.advantages, batch.mask, **bounds)
        return TokenLosses(values=clipped_surrogate(ratio, batch.advantages, **bounds), metrics=metrics)
