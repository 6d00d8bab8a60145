"""Rule ``inputs_steer``: reference, rollout log-probs and entropy change the gradient if they change the loss."""

from dataclasses import replace

import torch

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import needs_of, run
from skyrl_core.contract.policy_loss import Need, PolicyLoss

# Each costs a forward pass that only this loss asks for. If no gradient depends on it, the pass is wasted.
_REMEDIES = {
    Need.REF_LOG_PROBS: "log_probs - ref_log_probs (k1), or any KL under no_grad, has no reference in its gradient: as "
    "a loss it pulls nowhere. Use kl_loss(log_probs, ref_log_probs, 'k2') or 'k3' from skyrl_core.maths",
    Need.ROLLOUT_LOG_PROBS: "use the ratio exp(log_probs - rollout_log_probs), or a weight computed from it; the "
    "gradient of a difference of log-probs does not depend on rollout_log_probs",
    Need.ENTROPY: "do not detach the entropy: a bonus without gradient changes the logged loss and nothing else",
}


def check_inputs_steer(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Raise each input by a constant, and compare the loss and its gradient."""
    expected = run(loss, batch)
    for need in sorted(_REMEDIES.keys() & needs_of(loss)):
        if need == Need.ENTROPY and expected.entropy_gradient.any():
            continue
        trials = [run(loss, replace(batch, **{need.value: getattr(batch, need.value) + by})) for by in (0.1, 1.0)]
        if any(expected.difference(replace(trial, total=expected.total)) for trial in trials):
            continue
        if not torch.equal(expected.total, trials[1].total):
            raise Violation(
                f"with {need.value} higher by 1 the loss goes from {float(expected.total):.6g} to "
                f"{float(trials[1].total):.6g}, and no gradient changes",
                remedy=_REMEDIES[need],
                batch=batch,
            )
    return []


INPUTS_STEER = Rule(
    name="inputs_steer",
    explanation="reference log-probs, rollout log-probs and entropy change the gradient if they change the loss",
    remedy="make the term differentiable, or log it as a metric and leave it out of the loss",
    counterexample="beta * (log_probs - ref_log_probs) as a KL penalty (k1); a bonus on entropy.detach()",
    check=check_inputs_steer,
)
