"""The importance-weighted policy gradient: no clip, by default with the ratio to the rollout policy.

Loss of a token: -r A, r = exp(log pi - log anchor), gradient through r. With the rollout engine's log-probs as anchor
it corrects for stale samples and also for the numerical difference between rollout engine and trainer; with
``anchor: old`` it is ``standard``. Reference: the off-policy policy gradient, arXiv 1205.4839, token by token.
"""

from typing import Any

from skyrl_core import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import ImportanceSamplingParams
from skyrl_core.losses.standard import policy_gradient
from skyrl_core.maths import bounded, ratio_metrics


class ImportanceSamplingLoss(PolicyLoss):
    """-r A for every token, r the ratio to the anchor."""

    name = "importance_sampling"
    Params = ImportanceSamplingParams
    api_version = 1
    semantics_version = 1
    reference = "Off-policy policy gradient, arXiv 1205.4839, per token"

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        """Only the log-probs of the anchor."""
        return frozenset({Need.OLD_LOG_PROBS if params.anchor == "old" else Need.ROLLOUT_LOG_PROBS})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss and metrics of every token."""
        anchor = batch.old_log_probs if self.params.anchor == "old" else batch.rollout_log_probs
        log_ratio = bounded(batch.log_probs - anchor)
        ratio = log_ratio.exp()
        return TokenLosses(
            values=policy_gradient(ratio, batch.advantages), metrics=ratio_metrics(ratio, log_ratio, batch.mask)
        )
