"""Rule ``declared_needs``: the loss reads exactly the inputs that it declares in ``needs``."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import loss_batch, needs_of
from skyrl_core.contract.loss_value import scalar_loss
from skyrl_core.contract.policy_loss import Need, PolicyLoss, is_scalar_form, prepared_by
from skyrl_core.errors import UndeclaredInputError


def check_declared_needs(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Call the loss with what it declares, and compare with what it read."""
    declared = needs_of(loss)
    if is_scalar_form(type(loss)):
        return _check_scalar_form(loss, batch, declared)
    minibatch, micro_batch = loss_batch(loss, batch), loss_batch(loss, batch)
    try:
        micro_batch.prepared = prepared_by(loss, minibatch).tensors
        loss.token_losses(micro_batch)
    except UndeclaredInputError as error:
        raise Violation(str(error)) from error
    unread = declared - minibatch.read - micro_batch.read
    if unread:
        raise Violation(
            f"{_names(unread)} declared in needs but never read",
            remedy=f"remove {_names(unread)} from needs: each need costs a forward pass or memory",
        )
    return []


def _check_scalar_form(loss: PolicyLoss, batch: ExampleBatch, declared: frozenset[Need]) -> list[str]:
    try:
        expected: Any = scalar_loss(loss, loss_batch(loss, batch))
    except Exception as error:
        raise Violation(
            f"compute_loss raised {type(error).__name__}: {error} with {_names(declared)}, but not with every input"
        ) from error
    if not isinstance(expected, Tensor):
        return []  # shape_dtype reports it
    # The reads of a scalar loss cannot be observed, only what changes its value. A note instead of a failure, because
    # the default needs were not the author's choice.
    changed = {need: replace(batch, **{need.value: getattr(batch, need.value).roll(1, 0)}) for need in declared}
    unused = {n for n, other in changed.items() if torch.equal(expected, scalar_loss(loss, loss_batch(loss, other)))}
    if unused:
        return [f"{_names(frozenset(unused))} declared in needs, without effect: each need costs time or memory"]
    return []


def _names(needs: frozenset[Need]) -> str:
    return ", ".join(f"Need.{need.name}" for need in sorted(needs)) or "no Need"


DECLARED_NEEDS = Rule(
    name="declared_needs",
    explanation="the loss reads exactly the inputs that it declares in `needs`",
    remedy="return from needs(params) exactly the inputs that the loss reads",
    counterexample="batch.entropy read but not declared; Need.REF_LOG_PROBS declared but never read",
    check=check_declared_needs,
    gate=True,
    waivable=False,
)
