"""Rule ``parameter_bounds``: every value that the schema admits gives a finite loss."""

from collections.abc import Iterator

from skyrl_core.conformance.author_code import author_place
from skyrl_core.conformance.batches import ExampleBatch, far_batches, wide_batch
from skyrl_core.conformance.parameter_variations import dotted, value_at, variations
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams


def check_parameter_bounds(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Try the bounds of each parameter and values between them, on ordinary and on extreme batches."""
    if type(loss.params) is OpenLossParams:
        return []  # without a schema there are no bounds
    batches = {"an ordinary batch": base, "rare values": wide_batch(), "ratio 1": base.on_policy()}
    batches |= far_batches(base, 50.0)
    for where, params in _settings(loss.params):
        for description, batch in batches.items():
            try:
                trial = run(type(loss)(params), batch)
            except Exception as error:
                found = f"{type(error).__name__}: {error} ({author_place(error, loss)})"
                raise Violation(f"the schema admits {where}, but the loss raises {found}") from error
            if not trial.is_finite:
                found = f"{float(trial.total):g}, or a gradient is not finite"
                raise Violation(f"the schema admits {where}, but on {description} the loss is {found}", batch=batch)
    return []


def _settings(params: LossParams) -> Iterator[tuple[str, LossParams]]:
    for path, others in variations(params).items():
        for other in others:
            yield f"{dotted(path)} = {value_at(other, path)!r}", other


PARAMETER_BOUNDS = Rule(
    name="parameter_bounds",
    explanation="every value that the schema admits gives a finite loss",
    remedy="restrict the parameter, with Field(gt=0) for instance, or make the loss finite for that value",
    counterexample="temperature: float = Field(default=1.0, ge=0), by which the loss divides",
    check=check_parameter_bounds,
    quick=False,
)
