"""Rule ``term_signs``: a penalty pulls toward the policy that it names, and an entropy bonus raises the entropy."""

from dataclasses import replace

import torch

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import advantage_effect, needs_of, run
from skyrl_core.contract.policy_loss import Need, PolicyLoss

_ANCHORS = (Need.OLD_LOG_PROBS, Need.ROLLOUT_LOG_PROBS, Need.REF_LOG_PROBS)
SHIFT = 0.5


def check_term_signs(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Without advantages, move each other policy away, and look where a step moves the log-probs and the entropy."""
    batch = base.on_policy().with_advantages(torch.zeros(len(base.mask)))
    # Without entropy, no bonus that is weighted by a ratio counts as a pull.
    flat = replace(batch, entropy=torch.zeros_like(batch.entropy))
    # Without any effect of the advantages, a supervised loss may raise the log-probs by a ratio.
    anchors = _ANCHORS if advantage_effect(loss, base.on_policy()).any() else ()
    for need in needs_of(loss).intersection(anchors):
        for shift in (SHIFT, -SHIFT):
            moved = replace(flat, **{need.value: getattr(flat, need.value) + shift})
            pull = run(loss, moved).gradient.sum() - run(loss, flat).gradient.sum()
            if pull * shift > 1e-6:
                higher, moves = ("higher", "lowers") if shift > 0 else ("lower", "raises")
                raise Violation(
                    f"with every advantage 0, {need.value} {abs(shift):g} {higher} adds {float(pull):.6g} to the sum "
                    f"of d loss / d log_probs: a step {moves} the log-probs, away from {need.value}",
                    batch=moved,
                )
    push = run(loss, batch).entropy_gradient
    if float(push.sum()) > 1e-6:
        raise Violation(
            f"with every advantage 0, d loss / d entropy adds up to {float(push.sum()):.6g}: a step lowers the entropy",
            remedy="losses are minimised: subtract coef * batch.entropy. If the loss is meant to lower the entropy, "
            "waive this rule",
            batch=batch,
        )
    return []


TERM_SIGNS = Rule(
    name="term_signs",
    explanation="a penalty pulls toward the other policy, and an entropy bonus raises the entropy",
    remedy="losses are minimised: add coef * kl, never subtract it",
    counterexample="- beta * kl_loss(...); + coef * batch.entropy",
    check=check_term_signs,
    quick=False,
)
