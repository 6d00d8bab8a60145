"""Rules about what a loss leaves alone: its inputs, their gradients, chance, its own past."""

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rules.interface import evaluate, ready_batch
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import LossBatch, PolicyLoss


def check_no_gradient_to_inputs(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Only log_probs and entropy carry gradient."""
    ready = ready_batch(loss, batch)
    evaluate(loss, ready)
    for name, tensor in _tensors(ready).items():
        if tensor.requires_grad and name not in ("log_probs", "entropy"):
            raise Violation(f"{name} requires grad after the call", batch=batch)
    return []


def check_inputs_not_mutated(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """What the loss was given is afterwards what it was before."""
    ready = ready_batch(loss, batch)
    before = {name: tensor.detach().clone() for name, tensor in _tensors(ready).items()}
    evaluate(loss, ready)
    for name, tensor in _tensors(ready).items():
        if not torch.equal(before[name], tensor.detach()):
            at = (before[name] != tensor).nonzero()[0].tolist()
            found = f"{name}{at} was {before[name][tuple(at)]:.6g} before the call, then {tensor[tuple(at)]:.6g}"
            raise Violation(found, batch=batch)
    return []


def check_deterministic(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Twice the same batch, with other random numbers at hand, is twice the same result, bit for bit."""
    once, again = run(loss, batch, seed=0), run(loss, batch, seed=1)
    if not once.equal(again):
        found = f"the same batch gave {float(once.total):.9g}, then {float(again.total):.9g} (or other gradients)"
        raise Violation(found, batch=batch)
    return []


def _tensors(batch: LossBatch) -> dict[str, Tensor]:
    declared = {need.value: getattr(batch, need.value) for need in batch.needs}
    return {"log_probs": batch.log_probs, "advantages": batch.advantages, "mask": batch.mask, **declared}


NO_GRADIENT_TO_INPUTS = Rule(
    name="no_gradient_to_inputs",
    explanation="gradient flows to log_probs and entropy alone, not to advantages or other policies",
    remedy="do not call requires_grad_() on an input; work on a detached clone",
    breaks="advantages.requires_grad_() before torch.autograd.grad",
    check=check_no_gradient_to_inputs,
)
INPUTS_NOT_MUTATED = Rule(
    name="inputs_not_mutated",
    explanation="the loss leaves its inputs as they are",
    remedy="replace the in-place operation (x += y, x.clamp_(), x[mask] = 0) by one that returns a new tensor",
    breaks="advantages.mul_(2); groups += 1",
    check=check_inputs_not_mutated,
)
DETERMINISTIC = Rule(
    name="deterministic",
    explanation="the same batch gives the same loss and gradient, bit for bit",
    remedy="draw no random numbers and keep no state between calls; batch.step tells steps apart, and what is learnt "
    "over steps changes in after_step",
    breaks="torch.rand in the loss; a moving average that token_losses updates",
    check=check_deterministic,
)
