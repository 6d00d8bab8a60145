"""Rule ``no_gradient_to_inputs``: gradient flows only to log_probs and entropy."""

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, declared_tensors, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.contract.policy_loss import PolicyLoss


def check_no_gradient_to_inputs(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Call the loss, then look for inputs that require grad."""
    ready = ready_batch(loss, batch)
    call_loss(loss, ready)
    for name, tensor in declared_tensors(ready).items():
        if tensor.requires_grad and name not in ("log_probs", "entropy"):
            raise Violation(f"{name} requires grad after the call", batch=batch)
    return []


NO_GRADIENT_TO_INPUTS = Rule(
    name="no_gradient_to_inputs",
    explanation="gradient flows only to log_probs and entropy, not to advantages or other policies",
    remedy="do not call requires_grad_() on an input; work on a detached clone",
    counterexample="advantages.requires_grad_() before torch.autograd.grad",
    check=check_no_gradient_to_inputs,
)
