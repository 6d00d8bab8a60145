"""KL-Cov: the policy gradient without a clip, and a penalty on the tokens of highest covariance.

Loss of a token: -r A, and at the fraction kl_cov_frac of all tokens with the highest covariance
(log pi - mean) (A - mean): -r A + ppo_kl_coef |log pi - log pi_old|. Reference: KL-Cov, arXiv 2505.22617, with the
penalty as the authors' code estimates it: the absolute log-ratio. In the first update after a rollout it is 0, with
no gradient. The default fraction is the paper's smaller one, for large models; it uses 2e-3 for 7B.

Means and choice cover the entire minibatch of all ranks and are computed once in ``prepare``.
"""

import torch

from skyrl_core import LossBatch, Metric, PolicyLoss, Prepared, TokenLosses
from skyrl_core.losses.params import KlCovParams
from skyrl_core.losses.standard import policy_gradient
from skyrl_core.maths import at_indices, bounded, by_covariance, ratio_metrics, share_of_tokens, token_covariance


class KlCovLoss(PolicyLoss):
    """-r A, and a penalty on the move of the chosen tokens."""

    name = "kl_cov"
    Params = KlCovParams
    api_version = 1
    semantics_version = 1
    reference = "KL-Cov, arXiv 2505.22617"

    def prepare(self, minibatch: LossBatch) -> Prepared:
        """``penalised``, bool [B, T]: the chosen tokens."""
        covariance = token_covariance(minibatch.log_probs, minibatch.advantages, minibatch.mask)
        ordered = by_covariance(covariance, minibatch.log_probs, minibatch.mask)
        count = share_of_tokens(self.params.kl_cov_frac, minibatch.mask)
        return Prepared(per_token={"penalised": at_indices(ordered[:count], minibatch.mask)})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss, its two terms and metrics of every token."""
        move = batch.log_probs - batch.old_log_probs
        ratio = bounded(move).exp()
        penalised = batch.prepared["penalised"]
        policy = policy_gradient(ratio, batch.advantages)
        penalty = torch.where(penalised, self.params.ppo_kl_coef * move.abs(), 0.0)
        metrics = ratio_metrics(ratio, move, batch.mask)
        metrics["penalised_fraction"] = Metric.mean(penalised, batch.mask)
        return TokenLosses(values=policy + penalty, terms={"policy": policy, "penalty": penalty}, metrics=metrics)
