"""Rule ``gradient``: autograd gives the derivative of the loss value."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import result_dtype
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.stop_gradients import StopGradients
from skyrl_core.conformance.trial import Trial, prepare, run
from skyrl_core.contract.policy_loss import PolicyLoss

# In float64 a difference over 1e-6 is accurate to 1e-8. A loss that computes in float32 inside needs the larger step.
STEPS = {1e-6: 1e-5, 1e-3: 2e-2}


def check_gradient(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Compare autograd with central differences in float64, with everything detached held constant."""
    batch = base.to(torch.float64)
    if result_dtype(loss, batch) != torch.float64:
        return []  # precision reports it
    prepared, record = prepare(loss, batch), StopGradients()
    trial = run(loss, batch, prepared=prepared, around=lambda: record)

    def total(log_probs: Tensor, entropy: Tensor) -> float:
        moved = replace(batch, log_probs=batch.log_probs + log_probs, entropy=batch.entropy + entropy)
        return float(run(loss, moved, prepared=prepared, around=lambda: StopGradients(record.record)).total)

    at = torch.arange(batch.mask.numel(), dtype=torch.float64).reshape(batch.mask.shape)
    directions = [torch.where(batch.mask, torch.cos(turn * (at + 1)), 0.0) for turn in (1.0, 2.3)]
    if all(_agree(total, trial, direction, 0.7 * direction) for direction in directions):
        return []
    for row, column in batch.mask.nonzero().tolist():
        one, zero = torch.zeros_like(at), torch.zeros_like(at)
        one[row, column] = 1.0
        for name, pair in {"log_probs": (one, zero), "entropy": (zero, one)}.items():
            if not _agree(total, trial, *pair):
                expected, got = _slope(total, *pair, step=1e-6), _along(trial, *pair)
                found = f"d loss / d {name}[{row}, {column}] is {got:.6g}; finite differences give {expected:.6g}"
                raise Violation(found, batch=batch)
    return []  # every token agrees: the direction crosses a kink


def _agree(total: Callable[[Tensor, Tensor], float], trial: Trial, log_probs: Tensor, entropy: Tensor) -> bool:
    got = _along(trial, log_probs, entropy)
    size = float((trial.gradient * log_probs).abs().sum() + (trial.entropy_gradient * entropy).abs().sum())
    for step, tolerance in STEPS.items():
        expected = _slope(total, log_probs, entropy, step=step)
        if abs(got - expected) <= tolerance * max(size, abs(expected)) + 1e-7:
            return True
    return False


def _slope(total: Callable[[Tensor, Tensor], float], log_probs: Tensor, entropy: Tensor, *, step: float) -> float:
    forward, backward = total(step * log_probs, step * entropy), total(-step * log_probs, -step * entropy)
    return (forward - backward) / (2 * step)


def _along(trial: Trial, log_probs: Tensor, entropy: Tensor) -> float:
    return float((trial.gradient * log_probs).sum() + (trial.entropy_gradient * entropy).sum())


GRADIENT = Rule(
    name="gradient",
    explanation="autograd gives the derivative of the loss, with detached parts constant (float64, finite differences)",
    remedy="correct the backward of the autograd.Function, or let autograd derive it",
    counterexample="an autograd.Function whose backward forgets a factor; a straight-through clip",
    check=check_gradient,
)
