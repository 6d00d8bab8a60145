"""Rule ``precision``: float64 input gives float64 output, and bfloat16 input gives about the same loss."""

from dataclasses import replace

import torch

from skyrl_core.conformance.author_code import author_place
from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import result_dtype
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import Trial, prepare, run
from skyrl_core.contract.policy_loss import PolicyLoss

# float32 against float64: rounding, with a margin. bfloat16 has 8 bits, and a token at a threshold may fall on either
# side of it.
FLOAT32_TOLERANCE, BFLOAT16_TOLERANCE = 1e-3, 0.15
# A token that the policy was almost certain of: its probability rounds to 1 in bfloat16.
ALMOST_SURE = -1e-3


def check_precision(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Evaluate the same batch in float64, float32 and bfloat16."""
    dtype = result_dtype(loss, base.to(torch.float64))
    if dtype != torch.float64:
        raise Violation(f"float64 log_probs gave a {dtype} loss", batch=base)
    double, single = run(loss, base.to(torch.float64)), run(loss, base)
    as_single = Trial(
        total=double.total.float(),
        gradient=double.gradient.float(),
        entropy_gradient=double.entropy_gradient.float(),
    )
    if difference := as_single.difference(single, FLOAT32_TOLERANCE):
        raise Violation(f"in float32 instead of float64 {difference}", batch=base)
    return _check_bfloat16(loss, base)


def _check_bfloat16(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Compare with float32, with the result of ``prepare`` in float32, as trainers call it; then in bfloat16."""
    sure = base.log_probs.clone()
    sure[:, 0] = ALMOST_SURE
    batch = replace(base, log_probs=sure).to(torch.bfloat16)
    rounded = batch.to(torch.float32)
    prepared = prepare(loss, rounded)
    single = run(loss, rounded, prepared=prepared)
    if found := _differ(single, run(loss, batch, prepared=prepared.to(torch.bfloat16))):
        raise Violation(found, batch=batch)
    try:
        found = _differ(single, run(loss, batch, prepared=prepare(loss, batch)))
    except Exception as error:  # noqa: BLE001 - trainers call it in float32
        found = f"it raises {type(error).__name__} ({author_place(error, loss)}): {error}"
    return [f"prepare needs float32: {found}"] if found else []


def _differ(single: Trial, half: Trial) -> str | None:
    if not half.is_finite:
        return f"in bfloat16 the loss is {float(half.total):g}, or a gradient is not finite"
    pairs = {
        "the loss": (single.total, half.total),
        "the sum of all |d loss / d log_probs|": (single.gradient.abs().sum(), half.gradient.float().abs().sum()),
        "the sum of all |d loss / d entropy|": (
            single.entropy_gradient.abs().sum(),
            half.entropy_gradient.float().abs().sum(),
        ),
    }
    for name, (expected, got) in pairs.items():
        if abs(float(got - expected)) > BFLOAT16_TOLERANCE * (1 + abs(float(expected))):
            return f"in bfloat16 {name} is {float(got):.6g}; the same inputs in float32 give {float(expected):.6g}"
    return None


PRECISION = Rule(
    name="precision",
    explanation="float64 gives float64 output and the gradient of float32, bfloat16 gives about the same loss",
    remedy="create tensors with zeros_like or new_full, not in a fixed dtype; do not add 1e-8 to a probability before "
    "taking its logarithm, but compute with logarithms (log1p, expm1, logsumexp)",
    counterexample="losses.float(); torch.log(1 - probs + 1e-8), where 1 - probs is 0 in bfloat16",
    check=check_precision,
    quick=False,
)
