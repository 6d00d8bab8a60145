"""The value of any loss on one micro-batch: its weighted share of the objective, terms and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from skyrl_core.contract.metric import Metric
from skyrl_core.contract.output_check import check_scalar_loss, check_token_losses
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, is_scalar_form
from skyrl_core.contract.reduction import weighted_sum


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """One micro-batch's part of the objective. The parts of a minibatch add up; metrics merge."""

    total: Tensor  # scalar; carries gradient
    terms: Mapping[str, Tensor] = field(default_factory=dict)  # detached scalars, for logging
    metrics: Mapping[str, Metric] = field(default_factory=dict)


def evaluate_loss(loss: PolicyLoss, batch: LossBatch, weights: Tensor, token_share: Tensor | float) -> LossOutput:
    """The loss of one micro-batch.

    A micro-batch without a valid token contributes exactly zero, with a zero gradient to ``batch.log_probs``, so that
    every rank can run the same number of backward passes.

    Args:
        loss: in token or scalar form.
        batch: the micro-batch, with the inputs that the loss declares.
        weights: float [B, T] from ``token_weights``, for the token form.
        token_share: valid tokens of this micro-batch / of the minibatch of all ranks, for the scalar form.

    Raises:
        ConformanceError: the loss did not return one value with a gradient per token, or one number in scalar form.
    """
    if is_scalar_form(type(loss)):
        total = _scalar_share(loss, batch, token_share)
        return LossOutput(total=total, metrics=_effective_tokens(total, batch))
    output = loss.token_losses(batch)
    check_token_losses(loss, output, batch)
    total = weighted_sum(output.values, weights, batch.mask)
    terms = {name: weighted_sum(term, weights, batch.mask) for name, term in output.terms.items()}
    norms = {f"grad_norm/{name}": _gradient_norm(term, batch, token_share) for name, term in terms.items()}
    return LossOutput(
        total=total,
        terms={name: term.detach() for name, term in terms.items()},
        metrics={**output.metrics, **norms, **_effective_tokens(total, batch)},
    )


def _effective_tokens(total: Tensor, batch: LossBatch) -> dict[str, Metric]:
    """``effective_tokens``: the fraction of tokens whose log-prob gets a non-zero gradient."""
    if not total.requires_grad or not batch.log_probs.requires_grad:
        return {}
    (gradient,) = torch.autograd.grad(
        total, batch.log_probs, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {"effective_tokens": Metric.mean(gradient != 0, batch.mask)}


def _gradient_norm(term: Tensor, batch: LossBatch, token_share: Tensor | float) -> Metric:
    """The norm of a term's gradient with respect to the log-probs and the entropy of all tokens.

    The gradient with respect to the model's parameters would take one backward pass through the model per term.
    """
    leaves = [tensor for tensor in batch.differentiable if tensor.requires_grad]
    if not term.requires_grad or not leaves:
        return Metric.norm(term.new_zeros(1), token_share)
    gradients = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return Metric.norm(torch.cat([gradient.flatten() for gradient in gradients]), token_share)


def _scalar_share(loss: PolicyLoss, batch: LossBatch, token_share: Tensor | float) -> Tensor:
    # Without a token, a mean over tokens is 0 / 0. The token form needs no guard: masked values never count.
    if not batch.mask.any():
        return batch.log_probs.sum() * 0.0
    scalar = scalar_loss(loss, batch)
    check_scalar_loss(loss, scalar, batch)
    return scalar * token_share


def scalar_loss(loss: PolicyLoss, batch: LossBatch) -> Tensor:
    """Call the scalar form: the four documented arguments by position, other declared inputs by keyword."""
    old_log_probs = batch.old_log_probs if Need.OLD_LOG_PROBS in batch.needs else None
    others: dict[str, Any] = {
        need.value: getattr(batch, need.value) for need in sorted(batch.needs - {Need.OLD_LOG_PROBS})
    }
    return loss.compute_loss(batch.log_probs, old_log_probs, batch.advantages, batch.mask, **others)
