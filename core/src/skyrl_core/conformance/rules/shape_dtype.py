"""Rule ``shape_dtype``: one loss per token, in the dtype of the input, finite, and with a gradient."""

from typing import Any

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, describe, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.contract.metric import RESERVED_METRIC_NAMES, Metric
from skyrl_core.contract.policy_loss import PolicyLoss, TokenLosses, is_scalar_form

_PER_TOKEN = "return the unreduced loss of every token: the trainer masks, weights and sums"
_SCALAR = "return one number and nothing else, such as masked_mean(losses, masks)"


def check_shape_dtype(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Check everything that the loss returns from ``prepare`` and from one call."""
    ready = ready_batch(loss, batch)
    for name, tensor in ready.prepared.items():
        if not isinstance(tensor, Tensor) or tensor.requires_grad:
            raise Violation(
                f"prepare returned {name} = {describe(tensor)}", remedy="return detached tensors from prepare"
            )
    output = call_loss(loss, ready)
    if is_scalar_form(type(loss)):
        _check_tensor("compute_loss returned", output, ready.log_probs, ())
    elif not isinstance(output, TokenLosses):
        raise Violation(f"token_losses returned {describe(output)}", remedy="return TokenLosses(values=...)")
    else:
        _check_tensor("values is", output.values, ready.log_probs, tuple(ready.mask.shape))
        _check_log(output, batch.mask)
    return []


def _check_log(output: TokenLosses, mask: Tensor) -> None:
    for name, term in output.terms.items():
        if not isinstance(term, Tensor) or term.shape != mask.shape:
            raise Violation(f"terms[{name!r}] is {describe(term)}, expected {list(mask.shape)}")
    for name, metric in output.metrics.items():
        if not isinstance(metric, Metric):
            raise Violation(f"metrics[{name!r}] is {describe(metric)}", remedy="use Metric.mean(values, batch.mask)")
        if name in RESERVED_METRIC_NAMES:
            raise Violation(f"the trainer already logs a metric {name!r}", remedy="rename the metric of the loss")


def _check_tensor(subject: str, values: Any, log_probs: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(values, Tensor) or tuple(values.shape) != shape:
        raise Violation(
            f"{subject} {describe(values)}, expected a tensor of shape {list(shape)}",
            remedy=_PER_TOKEN if shape else _SCALAR,
        )
    if values.dtype != log_probs.dtype:
        raise Violation(f"{subject} {values.dtype}, expected {log_probs.dtype}", remedy="keep the dtype of log_probs")
    if not values.isfinite().all():
        raise Violation(
            f"{subject} not finite on an ordinary batch", remedy="look for a division by 0, log(0) or inf - inf"
        )
    if not values.requires_grad or torch.autograd.grad(values.sum(), log_probs, allow_unused=True)[0] is None:
        raise Violation(
            f"{subject} {describe(values)} without a gradient to log_probs",
            remedy="compute it from batch.log_probs without detach(), no_grad(), item() or numpy",
        )


SHAPE_DTYPE = Rule(
    name="shape_dtype",
    explanation="one loss per token, [B, T] (scalar form: one number), float32, finite, with a gradient",
    remedy=_PER_TOKEN,
    counterexample="losses.mean() in token_losses; (loss, metrics) from compute_loss; log_probs.detach()",
    check=check_shape_dtype,
    gate=True,
    waivable=False,
)
