"""One direct call of a loss on an example batch, before any masking, weighting or summing."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.trial import loss_batch, prepare
from skyrl_core.contract.loss_value import scalar_loss
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses, is_scalar_form, prepared_by


def ready_batch(loss: PolicyLoss, batch: ExampleBatch, needs: frozenset[Need] | None = None) -> LossBatch:
    """Copy the example as ``token_losses`` receives it: floats that require grad, and the result of ``prepare``."""
    copied = replace(batch, mask=batch.mask.clone(), groups=batch.groups.clone())
    ready = loss_batch(loss, copied.floats(lambda tensor: tensor.detach().clone().requires_grad_()), needs)
    prepared = prepared_by(loss, loss_batch(loss, batch, needs)) if needs else prepare(loss, batch)
    ready.prepared = prepared.tensors
    return ready


def call_loss(loss: PolicyLoss, batch: LossBatch) -> Any:
    """Return what the loss returns, in either form."""
    return scalar_loss(loss, batch) if is_scalar_form(type(loss)) else loss.token_losses(batch)


def result_dtype(loss: PolicyLoss, batch: ExampleBatch) -> torch.dtype:
    """Return the dtype of the loss values for this batch."""
    output = call_loss(loss, ready_batch(loss, batch))
    dtype: torch.dtype = (output.values if isinstance(output, TokenLosses) else output).dtype
    return dtype


def describe(value: Any) -> str:
    """Name a value by its dtype and shape if it is a tensor, by its type otherwise."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def declared_tensors(batch: LossBatch) -> dict[str, Tensor]:
    """Return the tensors that the loss may read, by name."""
    declared = {need.value: getattr(batch, need.value) for need in batch.needs}
    return {"log_probs": batch.log_probs, "advantages": batch.advantages, "mask": batch.mask, **declared}
