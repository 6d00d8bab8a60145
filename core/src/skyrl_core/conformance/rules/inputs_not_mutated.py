"""Rule ``inputs_not_mutated``: the loss does not modify its inputs."""

import torch

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, declared_tensors, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.contract.policy_loss import PolicyLoss


def check_inputs_not_mutated(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Compare every input before and after a call."""
    ready = ready_batch(loss, batch)
    before = {name: tensor.detach().clone() for name, tensor in declared_tensors(ready).items()}
    call_loss(loss, ready)
    for name, tensor in declared_tensors(ready).items():
        if not torch.equal(before[name], tensor.detach()):
            at = (before[name] != tensor).nonzero()[0].tolist()
            found = f"{name}{at} was {before[name][tuple(at)]:.6g} before the call and is {tensor[tuple(at)]:.6g} after"
            raise Violation(found, batch=batch)
    return []


INPUTS_NOT_MUTATED = Rule(
    name="inputs_not_mutated",
    explanation="the loss does not modify its inputs",
    remedy="replace the in-place operation (x += y, x.clamp_(), x[mask] = 0) with one that returns a new tensor",
    counterexample="advantages.mul_(2); groups += 1",
    check=check_inputs_not_mutated,
)
