"""Policy gradient with an exact entropy bonus.

Loss of a token: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - entropy_coef H, with r = exp(log pi - log pi_old)
and H the entropy, in nats, of the policy's full distribution at that token. H is exact, not sampled, and has a
gradient. Without clip bounds, the first term is -r A. Reference: PPO, arXiv 1707.06347, eqs. 7 and 9 (its S is H, its
c_2 is entropy_coef); for the bonus: Williams and Peng, 1991, and A3C, arXiv 1602.01783.

``entropy: sampled`` uses -pi log pi of the sampled token instead of H, which avoids a pass over the vocabulary. It is
biased: its mean is -sum pi^2 log pi, far below H when many tokens are likely, and its gradient pushes a token with
pi > 1/e down and any rarer token up, whatever the rest of the distribution. (-log pi has mean H but a gradient with
mean zero: as a loss it is noise.)

With ``target_entropy`` the weight adapts, between 0 and coef_max: after each optimizer step it grows by adapt_rate if
the mean entropy of the minibatch was below the target, and shrinks by the same amount if it was above. The bonus
applies only while the entropy is at or below the target (Skywork-OR1, arXiv 2505.22312, section 4.3). Checkpoints save
the weight.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, TokenLosses
from skyrl_core.maths import bounded, clip_metrics, clipped_surrogate, ratio_metrics
from skyrl_loss_entropyreg.params import EntropyRegParams


def sampled_entropy(log_probs: Tensor) -> Tensor:
    """Return -pi log pi of the sampled tokens: [B, T] -> [B, T]."""
    return -log_probs.exp() * log_probs


def adapted(coef: float, entropy: float, params: EntropyRegParams) -> float:
    """Return the weight after a step with this mean entropy, in nats."""
    target = params.target_entropy or 0.0
    change = params.adapt_rate if entropy < target else -params.adapt_rate if entropy > target else 0.0
    return min(max(coef + change, 0.0), params.coef_max)


class EntropyRegLoss(PolicyLoss):
    """Clipped surrogate minus entropy_coef times the entropy, per token."""

    name = "entropy_reg"
    Params = EntropyRegParams
    api_version = 1
    semantics_version = 1
    reference = "PPO, arXiv 1707.06347, eqs. 7 and 9"

    def __init__(self, params: EntropyRegParams) -> None:
        super().__init__(params)
        self._adapted = min(params.entropy_coef, params.coef_max)
        self._is_low = True  # until the first step measures the entropy

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        """Return the old log-probs, and the exact entropy if the bonus can be non-zero."""
        counts = params.entropy_coef > 0 or params.target_entropy is not None
        exact = params.entropy == "exact" and counts
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY} if exact else {Need.OLD_LOG_PROBS})

    @property
    def conformance_waivers(self) -> Mapping[str, str]:
        """Waive `sampled_entropy` for the sampled estimator, which exists to reproduce earlier runs."""
        if self.params.entropy == "exact":
            return {}
        return {"sampled_entropy": "entropy = sampled reproduces runs that used -pi log pi of the sampled token as H"}

    @property
    def coef(self) -> float:
        """Current weight of the bonus."""
        if self.params.target_entropy is None:
            return float(self.params.entropy_coef)
        return self._adapted if self._is_low else 0.0

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """Return the loss, its terms ``policy`` and ``entropy``, and metrics, per token."""
        params: EntropyRegParams = self.params
        clip = {"clip_low": params.clip_low, "clip_high": params.clip_high}
        log_ratio = bounded(batch.log_probs - batch.old_log_probs)
        ratio = log_ratio.exp()
        policy = clipped_surrogate(ratio, batch.advantages, **clip)
        metrics = ratio_metrics(ratio, log_ratio, batch.mask)
        metrics |= clip_metrics(ratio, batch.advantages, batch.mask, **clip)
        if params.entropy_coef == 0 and params.target_entropy is None:
            return TokenLosses(values=policy, terms={"policy": policy}, metrics=metrics)
        entropy = batch.entropy if params.entropy == "exact" else sampled_entropy(batch.log_probs)
        bonus = -self.coef * entropy
        metrics["entropy"] = Metric.mean(entropy, batch.mask)
        metrics["entropy_coef"] = Metric.mean(torch.full_like(entropy, self.coef), batch.mask)
        return TokenLosses(values=policy + bonus, terms={"policy": policy, "entropy": bonus}, metrics=metrics)

    @property
    def adapts(self) -> bool:
        """Whether a target entropy is set."""
        return self.params.target_entropy is not None

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Adapt the weight to the mean entropy of the minibatch."""
        if self.params.target_entropy is not None:
            self._adapted = adapted(self._adapted, metrics["entropy"], self.params)
            self._is_low = metrics["entropy"] <= self.params.target_entropy

    def state_dict(self) -> dict[str, float]:
        """Return the adapted weight and whether it applies; empty without a target."""
        if self.params.target_entropy is None:
            return {}
        return {"entropy_coef": self._adapted, "entropy_is_low": float(self._is_low)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the adapted weight.

        Raises:
            ValueError: the state was not saved with ``target_entropy``.
        """
        if self.params.target_entropy is None:
            super().load_state_dict(state)
        elif state:
            try:
                self._adapted, self._is_low = state["entropy_coef"], bool(state["entropy_is_low"])
            except KeyError as error:
                raise ValueError(f"the saved state of entropy_reg has no {error}") from error
