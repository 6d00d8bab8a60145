"""PPO-style clipped policy gradient with separate bounds.

Loss of a token: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), with r = exp(log pi - log pi_old). Reference: PPO,
arXiv 1707.06347, eq. 7; clip_high > clip_low is the clip-higher of DAPO, arXiv 2503.14476.
"""

from skyrl_core import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.maths import bounded, clip_metrics, clipped_surrogate, ratio_metrics
from skyrl_loss_clippedpg.params import ClippedPGParams


class ClippedPGLoss(PolicyLoss):
    """Clipped surrogate, per token."""

    name = "clipped_pg"
    Params = ClippedPGParams
    api_version = 1
    semantics_version = 1
    reference = "PPO, arXiv 1707.06347, eq. 7; clip-higher: DAPO, arXiv 2503.14476"

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Return the loss and metrics, per token."""
        clip = {"clip_low": self.params.clip_low, "clip_high": self.params.clip_high}
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(ratio, batch.advantages, batch.mask, **clip)
        return TokenLosses(values=clipped_surrogate(ratio, batch.advantages, **clip), metrics=metrics)
