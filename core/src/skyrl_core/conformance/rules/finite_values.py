"""Rule ``finite``: loss and gradient are finite, also on extreme batches that training can meet."""

from skyrl_core.conformance.batches import ExampleBatch, extreme_batches, far_batches
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import first_true, run
from skyrl_core.contract.policy_loss import PolicyLoss

# exp(50) = 5e21 fits in float32. Its square does not, nor does a product of such ratios over tokens.
FAR, VERY_FAR = 50.0, 200.0


def check_finite(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Evaluate the loss on extreme but possible batches; on impossible ones, leave a note."""
    for description, batch in extreme_batches(base, FAR).items():
        trial = run(loss, batch)
        if not trial.is_finite:
            gradient = "gradient to log_probs finite"
            if at := first_true(~trial.gradient.isfinite()):
                gradient = f"d loss / d log_probs{at} = {float(trial.gradient[tuple(at)]):g}"
            raise Violation(f"{description}: loss {float(trial.total):g}, {gradient}", batch=batch)
    return [
        f"{description}: not finite; clamp the log-ratio before exp, so that one corrupt token cannot spoil a step"
        for description, batch in far_batches(base, VERY_FAR).items()
        if not run(loss, batch).is_finite
    ]


FINITE = Rule(
    name="finite",
    explanation="loss and gradient are finite at log-ratios of ±50, for lengths 0 and 1 and for a batch without tokens",
    remedy="clamp the log-ratio before exp, and denominators with .clamp(min=1)",
    counterexample="exp(log_probs - old_log_probs) ** 2, which overflows; a mean over a sequence without tokens, 0 / 0",
    check=check_finite,
)
