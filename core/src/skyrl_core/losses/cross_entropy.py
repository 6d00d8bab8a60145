"""Cross entropy: imitates the sampled tokens, whatever their advantage.

Loss of a token: -log pi, supervised fine-tuning on the responses of the rollout. It reads no advantage: filter the
samples (rejection sampling) or add it to another loss. Reference: STaR, arXiv 2203.14465, which fine-tunes
a model on its correct answers; averaged over all tokens (loss_reduction ``token_mean``).
"""

from typing import Any

from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.losses.params import CrossEntropyParams


def cross_entropy(log_probs: Tensor) -> Tensor:
    """-log pi: [B, T] -> [B, T]."""
    return -log_probs


class CrossEntropyLoss(PolicyLoss):
    """-log pi for every token."""

    name = "cross_entropy"
    Params = CrossEntropyParams
    api_version = 1
    semantics_version = 1
    reference = "Maximum likelihood; on own samples STaR, arXiv 2203.14465"
    ignores_advantages = True

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:  # noqa: ARG003 - the same for all parameters
        """Nothing: the loss uses no other policy."""
        return frozenset()

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Loss of every token; ``nll_mean`` is the mean over all tokens in nats, regardless of the reduction."""
        values = cross_entropy(batch.log_probs)
        return TokenLosses(values=values, metrics={"nll_mean": Metric.mean(values, batch.mask)})
