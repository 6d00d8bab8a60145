"""Rule ``deterministic``: the same batch gives the same loss and gradient, bit for bit, whatever was called before."""

from skyrl_core.conformance.batches import ExampleBatch, far_batches, wide_batch
from skyrl_core.conformance.loss_call import call_loss, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import Trial, run
from skyrl_core.contract.policy_loss import PolicyLoss

# A count of calls that changes the loss shows within as many calls.
CALLS = 40


def check_deterministic(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Evaluate the same batch with other random numbers, after calls with other batches, and in a new loss."""
    first, second = run(loss, batch, seed=0), run(loss, batch, seed=1)
    if not first.equal(second):
        raise Violation(_differ("the same batch gave", first, second), batch=batch)
    others = [wide_batch(), *far_batches(batch, 5.0).values()]
    calls = [(other, ready_batch(loss, other)) for other in others]
    for number in range(CALLS):
        call_loss(loss, calls[number % len(calls)][1])
    after = [run(loss, other, step=7) for other in others]
    again = run(loss, batch, seed=2)
    if not first.equal(again):
        raise Violation(_differ(f"before and after {CALLS} calls with other batches, a batch gave", first, again))
    new = _new(loss)
    for other, expected in zip(others, after, strict=True):
        trial = run(new, other, step=7) if new is not None else expected
        if not expected.equal(trial):
            raise Violation(_differ("a batch gave, in a used and in a new loss,", expected, trial))
    return []


def _new(loss: PolicyLoss) -> PolicyLoss | None:
    if "params" not in vars(loss):
        return None  # its constructor keeps them elsewhere
    try:
        return type(loss)(loss.params)
    except Exception:  # noqa: BLE001 - a custom constructor may require anything
        return None


def _differ(subject: str, one: Trial, two: Trial) -> str:
    return f"{subject} {float(one.total):.9g}, then {float(two.total):.9g} (or other gradients)"


DETERMINISTIC = Rule(
    name="deterministic",
    explanation="the same batch gives the same loss and gradient, bit for bit, whatever was called before",
    remedy="use no random numbers and keep no state between calls; batch.step distinguishes steps, and state that is "
    "learned over steps changes in after_step",
    counterexample="torch.rand in the loss; a mean that the first call stores; a moving average in token_losses",
    check=check_deterministic,
    gate=True,
)
