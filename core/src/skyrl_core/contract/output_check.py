"""Checks what a loss returned in a run: the rules before step 1 see other batches than the ones it trains on."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from skyrl_core.contract.metric import Metric
from skyrl_core.contract.policy_loss import LossBatch, PolicyLoss, TokenLosses
from skyrl_core.errors import ConformanceError

_DETACHED = "without a gradient: compute them from batch.log_probs, without detach(), no_grad(), item() or a constant"


def check_token_losses(loss: PolicyLoss, output: Any, batch: LossBatch) -> None:
    """Check the result of ``token_losses`` without waiting for the device.

    Raises:
        ConformanceError: it is not one value with a gradient per token, or the terms or metrics cannot be logged.
    """
    if not isinstance(output, TokenLosses):
        raise _error(loss, f"{_described(output)} from token_losses: return TokenLosses(values=...)")
    problem = _problem(output.values, batch.log_probs, batch.mask.shape, "one value per token")
    if problem is None and _learns(batch) and not output.values.requires_grad:
        problem = _DETACHED
    if problem is not None:
        raise _error(loss, f"values {problem}")
    for what in _log_problems(output, batch):
        raise _error(loss, what)


def check_scalar_loss(loss: PolicyLoss, output: Any, batch: LossBatch) -> None:
    """Check the result of ``compute_loss`` without waiting for the device.

    Raises:
        ConformanceError: it is not one number with a gradient.
    """
    problem = _problem(output, batch.log_probs, torch.Size(), "one number")
    if problem is None and _learns(batch) and not output.requires_grad:
        problem = _DETACHED
    if problem is not None:
        raise _error(loss, f"a loss {problem}")


def _log_problems(output: TokenLosses, batch: LossBatch) -> Iterator[str]:
    if not isinstance(output.terms, Mapping) or not isinstance(output.metrics, Mapping):
        yield "terms or metrics that are no dict: return them by name"
        return
    for name, term in output.terms.items():
        if problem := _problem(term, batch.log_probs, batch.mask.shape, "one value per token"):
            yield f"the term {name!r} {problem}"
    for name, metric in output.metrics.items():
        parts = (metric.total, metric.count) if isinstance(metric, Metric) else ()
        if not parts or not all(isinstance(part, Tensor) and part.ndim == 0 for part in parts):
            yield f"the metric {name!r} = {_described(metric)}: use Metric.mean(values, batch.mask)"


def _problem(tensor: Any, like: Tensor, shape: torch.Size, expected: str) -> str | None:
    if not isinstance(tensor, Tensor):
        return f"of type {type(tensor).__name__}: return a tensor, {expected}"
    if tensor.shape != shape:  # it would broadcast, or fail later with an unrelated error
        return f"of shape {list(tensor.shape)} for a batch of {list(like.shape)}: return {expected}"
    if not tensor.is_floating_point():
        return f"of {tensor.dtype}: return the dtype of batch.log_probs, {like.dtype}"
    if tensor.device != like.device:
        return (
            f"on the device {tensor.device} for a batch on {like.device}: create tensors with device=batch.mask.device"
        )
    return None


def _learns(batch: LossBatch) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in batch.differentiable)


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _error(loss: PolicyLoss, found: str) -> ConformanceError:
    return ConformanceError(f"the loss {loss.name or type(loss).__name__} returned {found}")
