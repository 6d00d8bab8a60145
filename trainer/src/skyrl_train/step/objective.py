"""The objective of a run: the selected loss, and the terms and weights common to all losses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from skyrl_core.contract import (
    LossBatch,
    LossOutput,
    LossReduction,
    Metric,
    Need,
    PolicyLoss,
    Prepared,
    evaluate_loss,
    is_scalar_form,
    prepared_by,
    weighted_sum,
)
from skyrl_core.errors import InvalidParamsError
from skyrl_core.maths import OffPolicyCorrection, correction_metrics, kl_loss, mismatch_metrics
from skyrl_core.parameters import KlEstimator, number_at
from skyrl_core.registry import ScheduledLoss
from skyrl_train.config.number import Number, highest
from skyrl_train.config.schema import RunConfig
from skyrl_train.step.skip_zero_advantages import check_skipping

SAME_ENTROPY = 1e-5
"""Nats by which the float32 entropies of one distribution may differ from batch to batch."""

Inputs = Mapping[Need, Tensor | None]
"""All tensors computed for a micro-batch, whatever the loss declares."""

HIGH_ENTROPY = "objective/high_entropy"
"""Name of a prepared tensor: bool [N, T], the tokens of the minibatch that the loss trains."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of every step, its reduction, and the terms added to it."""

    loss: ScheduledLoss
    reduction: LossReduction
    max_length: int  # L of the reduction sequence_sum_norm
    kl_coef: Number = 0.0
    kl_estimator: KlEstimator = "k2"
    kl_reward_coef: Number = 0.0
    entropy_coef: Number = 0.0
    high_entropy_fraction: float | None = None
    correction: OffPolicyCorrection = field(default_factory=OffPolicyCorrection)
    skip_zero_advantages: bool = False  # leave sequences without an advantage out of forward and backward
    prefetched: bool = False  # the samples are from the policy before the last update
    logs_mismatch: bool = False  # log how far a rollout engine with separate weights is from the trainer
    reduction_is_configured: bool = False  # rather than the default of the loss

    @classmethod
    def of(cls, config: RunConfig, loss: ScheduledLoss) -> "Objective":
        """The objective that a configuration describes, with its loss."""
        algorithm = config.trainer.algorithm
        return cls(
            loss=loss,
            reduction=algorithm.loss_reduction or loss.loss.default_reduction,
            max_length=algorithm.max_length or config.rollout.max_new_tokens,
            kl_coef=algorithm.kl_coef,
            kl_estimator=algorithm.kl_estimator,
            kl_reward_coef=algorithm.kl_reward_coef,
            entropy_coef=algorithm.entropy_coef,
            high_entropy_fraction=algorithm.high_entropy_fraction,
            correction=OffPolicyCorrection(**algorithm.off_policy.model_dump()),
            skip_zero_advantages=algorithm.skip_zero_advantages,
            prefetched=config.rollout.async_ == "one_step",
            reduction_is_configured=algorithm.loss_reduction is not None,
        )

    def with_separate_engine(self, *, optimizer_steps: int) -> "Objective":
        """The objective for a rollout engine with separate weights, whose distance from the trainer is logged.

        If several ``optimizer_steps`` share a rollout and nothing else needs the old log-probs, it cannot be logged.
        """
        return replace(self, logs_mismatch=self.needs_old_log_probs or optimizer_steps == 1)

    @cached_property
    def needs(self) -> frozenset[Need]:
        """The inputs that the loss reads at any step."""
        return self.loss.needs

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is needed."""
        weights = (highest(self.kl_coef), highest(self.kl_reward_coef))
        return any(weights) or Need.REF_LOG_PROBS in self.needs

    @property
    def needs_old_log_probs(self) -> bool:
        """Whether the log-probs of the policy before the update are needed."""
        return Need.OLD_LOG_PROBS in self.needs or self.correction.active or self.old_log_probs_before_update

    @property
    def old_log_probs_before_update(self) -> bool:
        """Whether the old log-probs are needed before the first minibatch, even for a single optimizer step."""
        return highest(self.kl_reward_coef) > 0

    @property
    def needs_entropy(self) -> bool:
        """Whether entropy is needed."""
        wanted = highest(self.entropy_coef) > 0 or self.high_entropy_fraction is not None
        return Need.ENTROPY in self.needs or wanted

    @property
    def needs_preparation(self) -> bool:
        """Whether the loss or the objective needs statistics of the minibatch before its micro-batches."""
        return type(self.loss.loss).prepare is not PolicyLoss.prepare or self.high_entropy_fraction is not None

    def check(self) -> None:
        """Check that the loss can be combined with the other options.

        Raises:
            InvalidParamsError: it cannot.
        """
        loss, name = type(self.loss.loss), self.loss.loss.name
        token_weights = self.correction.active or self.high_entropy_fraction is not None
        if token_weights and is_scalar_form(loss):
            raise InvalidParamsError(
                "trainer.algorithm.off_policy and high_entropy_fraction weight the loss of each token, and loss "
                f"{name!r} returns one number: override its token_losses, or remove these options"
            )
        if self.reduction_is_configured and is_scalar_form(loss):
            raise InvalidParamsError(
                f"trainer.algorithm.loss_reduction = {self.reduction}: loss {name!r} returns one number, which it has "
                "already reduced, so this option has no effect: override its token_losses, or remove the option"
            )
        if self.correction.weight != "none" and Need.ROLLOUT_LOG_PROBS in self.needs:
            raise InvalidParamsError(
                f"trainer.algorithm.off_policy.weight = {self.correction.weight}: loss {name!r} already includes the "
                "ratio to the rollout engine's policy and would count it twice; set the weight to none"
            )
        if self.prefetched and self.correction.weight == "none" and Need.ROLLOUT_LOG_PROBS not in self.needs:
            raise InvalidParamsError(
                "rollout.async = one_step trains on samples of the policy before the last update, and nothing corrects "
                f"for it: set trainer.algorithm.off_policy.weight, for example to token, or select a loss that reads "
                f"the log-probs of the rollout engine, which {name!r} does not"
            )

        if self.skip_zero_advantages:
            check_skipping(self.loss, {"kl_coef": highest(self.kl_coef), "entropy_coef": highest(self.entropy_coef)})

    def prepare(self, minibatch: LossBatch, inputs: Inputs) -> Prepared:
        """Statistics of the minibatch of all ranks, detached; each input is [N, T]."""
        with self.loss.calling("prepare", minibatch.step):
            prepared = prepared_by(self.loss.at(minibatch.step), minibatch).detached()
        entropy = inputs.get(Need.ENTROPY)
        if self.high_entropy_fraction is not None and entropy is not None:
            chosen = highest_entropy(entropy, minibatch.mask, self.high_entropy_fraction)
            prepared = prepared.merged(Prepared(per_token={HIGH_ENTROPY: chosen}))
        return prepared

    def evaluate(self, batch: LossBatch, inputs: Inputs, weights: Tensor, token_share: Tensor) -> LossOutput:
        """The micro-batch's share of the objective, with its terms and metrics.

        Args:
            batch: the inputs that the loss declared.
            inputs: the inputs of the other terms, [B, T] each; the entropy carries gradient.
            weights: weights of the reduction, float [B, T].
            token_share: the micro-batch's share of the minibatch's tokens.
        """
        factors, metrics = self._factors(batch, inputs)
        own = weights if factors is None else weights * factors
        loss = self.loss.at(batch.step)
        with self.loss.calling("compute_loss" if is_scalar_form(type(loss)) else "token_losses", batch.step):
            output = evaluate_loss(loss, batch, own, token_share)
        terms, logged = self._added_terms(batch, inputs, weights)
        return LossOutput(
            total=output.total + sum(terms.values()),
            terms={**output.terms, **{name: term.detach() for name, term in terms.items()}},
            metrics={**logged, **metrics, **output.metrics},
        )

    def _added_terms(
        self, batch: LossBatch, inputs: Inputs, weights: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Metric]]:
        """The KL term and the entropy bonus, each a scalar with gradient."""
        terms, metrics = {}, {}
        kl_coef, reference = number_at(self.kl_coef, batch.step), inputs.get(Need.REF_LOG_PROBS)
        entropy_coef, entropy = number_at(self.entropy_coef, batch.step), inputs.get(Need.ENTROPY)
        if kl_coef and reference is not None:
            kl = kl_loss(batch.log_probs, reference, self.kl_estimator)
            terms["kl"] = kl_coef * weighted_sum(kl, weights, batch.mask)
            metrics["kl"] = Metric.mean(kl, batch.mask)
        if entropy is not None:
            metrics["entropy"] = Metric.mean(entropy, batch.mask)
        if entropy_coef and entropy is not None:
            terms["entropy_bonus"] = -entropy_coef * weighted_sum(entropy, weights, batch.mask)
        return terms, metrics

    def scheduled_values(self, step: int) -> dict[str, float]:
        """The value of each schedule at optimizer step ``step``, by metric name."""
        scheduled = {"kl_coef": self.kl_coef, "kl_reward_coef": self.kl_reward_coef, "entropy_coef": self.entropy_coef}
        own = {name: value.at(step) for name, value in scheduled.items() if not isinstance(value, float)}
        loss = {f"{self.loss.loss.name}.{name}": value for name, value in self.loss.numbers(step).items()}
        return {f"schedule/{name}": value for name, value in {**own, **loss}.items()}

    def _factors(self, batch: LossBatch, inputs: Inputs) -> tuple[Tensor | None, dict[str, Metric]]:
        """Factors of the loss of each token, [B, T], and their metrics."""
        metrics: dict[str, Metric] = {}
        factors: Tensor | None = None
        old, rollout = inputs.get(Need.OLD_LOG_PROBS), inputs.get(Need.ROLLOUT_LOG_PROBS)
        if old is not None and rollout is not None:
            if self.correction.active or self.logs_mismatch:
                metrics |= mismatch_metrics(old, rollout, batch.mask)
            if self.correction.active:
                factors = self.correction.factors(old, rollout, batch.mask)
                metrics |= correction_metrics(factors, batch.mask)
        if HIGH_ENTROPY in batch.prepared:
            chosen = batch.prepared[HIGH_ENTROPY].to(torch.float32)
            factors = chosen if factors is None else factors * chosen
        return factors, metrics


def highest_entropy(entropy: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The tokens of highest entropy, this fraction of unmasked ones, rounded up: [N, T] -> bool [N, T].

    arXiv 2506.01939: a fifth of the tokens, where the reasoning forks, carries most of what is learned. All tied tokens
    are included, up to rounding: the first tokens of a group are ties, and the choice must not depend on the split.
    """
    values = entropy.detach()[mask]
    if not len(values):
        return torch.zeros_like(mask)
    count = math.ceil(fraction * len(values))
    threshold = values.topk(count).values[-1]
    return mask & (entropy.detach() >= threshold - SAME_ENTROPY)
