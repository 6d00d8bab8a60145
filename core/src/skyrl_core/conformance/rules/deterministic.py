"""Rule ``deterministic``: the same batch gives the same loss and gradient, bit for bit."""

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import run
from skyrl_core.contract.policy_loss import PolicyLoss


def check_deterministic(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Evaluate the same batch twice, with different states of the random generator."""
    first, second = run(loss, batch, seed=0), run(loss, batch, seed=1)
    if not first.equal(second):
        found = f"the same batch gave {float(first.total):.9g}, then {float(second.total):.9g} (or other gradients)"
        raise Violation(found, batch=batch)
    return []


DETERMINISTIC = Rule(
    name="deterministic",
    explanation="the same batch gives the same loss and gradient, bit for bit",
    remedy="use no random numbers and keep no state between calls; batch.step distinguishes steps, and state that is "
    "learned over steps changes in after_step",
    counterexample="torch.rand in the loss; a moving average that token_losses updates",
    check=check_deterministic,
)
