"""Rule ``sampled_entropy``: a bonus computed from sampled log-probs has the same direction for every policy."""

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import advantage_effect, needs_of, run
from skyrl_core.contract.policy_loss import Need, PolicyLoss


def check_sampled_entropy(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Compute the expected change of the exact entropy for a flat and a peaked policy."""
    if needs_of(loss) & {Need.ENTROPY, Need.REF_LOG_PROBS} or type(loss).ignores_advantages:
        return []
    if not advantage_effect(loss, batch.on_policy()).any():
        return []  # gradient_sign reports it
    flat = _entropy_change(loss, torch.log(torch.tensor([0.2, *[0.02] * 40])))
    peaked = _entropy_change(loss, torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])))
    if flat * peaked < 0:
        raise Violation(
            "with every advantage 0, one step is expected to change the exact entropy by "
            f"{peaked:+.3g} (per unit of learning rate) for four tokens with probabilities 0.5, 0.3, 0.15 and 0.05, "
            f"but by {flat:+.3g} for one token with 0.2 and forty with 0.02"
        )
    return []


def _entropy_change(loss: PolicyLoss, log_policy: Tensor) -> float:
    """Expected change over the sampled token, to first order, after a step of learning rate 1 on the logits."""
    size = len(log_policy)
    policy, column = log_policy.exp(), log_policy.unsqueeze(-1)
    entropy = -(policy * log_policy).sum()
    batch = ExampleBatch(
        log_probs=column,
        entropy=entropy.expand(size, 1).clone(),
        advantages=torch.zeros(size, 1),
        old_log_probs=column.clone(),
        rollout_log_probs=column.clone(),
        ref_log_probs=column.clone(),
        mask=torch.ones(size, 1, dtype=torch.bool),
        groups=torch.zeros(size, dtype=torch.int64),
    )
    push = run(loss, batch).gradient.squeeze(-1) * size
    # d log pi_v / d logit_w = [v = w] - pi_w, in expectation over v, and d H / d logit_w = -pi_w (log pi_w + H)
    step = -policy * (push - (policy * push).sum())
    change = float((step * -policy * (log_policy + entropy)).sum())
    return change if abs(change) > 1e-7 * float(push.abs().max()) else 0.0


SAMPLED_ENTROPY = Rule(
    name="sampled_entropy",
    explanation="a bonus computed from sampled log-probs moves the entropy in the same direction for every policy",
    remedy="exp(lp) * lp is one term of the entropy, not an estimate: sampling counts its probability twice. "
    "Declare Need.ENTROPY and subtract coef * batch.entropy, which is exact and carries gradient",
    counterexample="- coef * -(log_probs.exp() * log_probs), averaged over the sampled tokens, as an entropy bonus",
    check=check_sampled_entropy,
    quick=False,
)
