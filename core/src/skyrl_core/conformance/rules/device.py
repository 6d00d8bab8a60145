"""Rule ``device``: the loss works, and is the same, on whatever device its inputs are."""

from dataclasses import replace

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.other_device import MixedDevicesError, OtherDeviceTensor, moved, on_cpu, other_device
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def check_device(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Evaluate the loss on an imitated device, where a tensor on the CPU cannot be combined with an input."""
    expected = run(loss, batch)
    try:
        with other_device():
            trial = run(loss, moved(batch))
    except MixedDevicesError as error:
        raise Violation(f"{error}, but the inputs are on another device") from error
    if not isinstance(trial.total, OtherDeviceTensor):
        raise Violation("the inputs are on a device, but the loss is on the CPU")
    there = replace(
        trial,
        total=on_cpu(trial.total),
        gradient=on_cpu(trial.gradient),
        entropy_gradient=on_cpu(trial.entropy_gradient),
    )
    if difference := expected.difference(there):
        raise Violation(f"on another device than the CPU {difference}", batch=batch)
    return []


DEVICE = Rule(
    name="device",
    explanation="the loss works, and is the same, on the device of its inputs, whichever it is",
    remedy="create tensors on the device of the inputs, with zeros_like, new_tensor or device=batch.log_probs.device; "
    "never ask for the type of the device",
    counterexample="torch.arange(width) without a device; a table that __init__ puts on the CPU",
    check=check_device,
    quick=False,
)
