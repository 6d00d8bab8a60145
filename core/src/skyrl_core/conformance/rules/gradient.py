"""Rules about the gradient of a loss: it is that of its value, and what was read steers it."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rules.interface import result_dtype
from skyrl_core.conformance.rules.numeric import advantage_effect
from skyrl_core.conformance.rules.rule import Rule, Violation
from skyrl_core.conformance.stop_gradients import StopGradients
from skyrl_core.conformance.trial import Trial, needs_of, prepare, run
from skyrl_core.contract.policy_loss import Need, PolicyLoss

# In float64 a difference over 1e-6 is good to 1e-8. A loss that computes in float32 inside needs the larger step.
STEPS = {1e-6: 1e-5, 1e-3: 2e-2}
# What the trainer computes for this loss alone, each by a pass of its own; a gradient without it is the same for less.
_COSTLY = {Need.REF_LOG_PROBS, Need.ROLLOUT_LOG_PROBS, Need.ENTROPY}


def check_gradient(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Autograd against central differences in float64, everything detached held constant."""
    batch = base.to(torch.float64)
    if result_dtype(loss, batch) != torch.float64:
        return []  # the business of precision
    prepared, record = prepare(loss, batch), StopGradients()
    trial = run(loss, batch, prepared=prepared, around=lambda: record)

    def total(log_probs: Tensor, entropy: Tensor) -> float:
        moved = replace(batch, log_probs=batch.log_probs + log_probs, entropy=batch.entropy + entropy)
        return float(run(loss, moved, prepared=prepared, around=lambda: StopGradients(record.record)).total)

    at = torch.arange(batch.mask.numel(), dtype=torch.float64).reshape(batch.mask.shape)
    directions = [torch.where(batch.mask, torch.cos(turn * (at + 1)), 0.0) for turn in (1.0, 2.3)]
    if all(_agree(total, trial, direction, 0.7 * direction) for direction in directions):
        return []
    for row, column in batch.mask.nonzero().tolist():
        one, none = torch.zeros_like(at), torch.zeros_like(at)
        one[row, column] = 1.0
        for name, pair in {"log_probs": (one, none), "entropy": (none, one)}.items():
            if not _agree(total, trial, *pair):
                expected, got = _slope(total, *pair, step=1e-6), _along(trial, *pair)
                found = f"d loss / d {name}[{row}, {column}] is {got:.6g}; differences of the loss give {expected:.6g}"
                raise Violation(found, batch=batch)
    return []  # a kink lies across the direction


def _agree(total: Callable[[Tensor, Tensor], float], trial: Trial, log_probs: Tensor, entropy: Tensor) -> bool:
    got = _along(trial, log_probs, entropy)
    size = float((trial.gradient * log_probs).abs().sum() + (trial.entropy_gradient * entropy).abs().sum())
    for step, tolerance in STEPS.items():
        expected = _slope(total, log_probs, entropy, step=step)
        if abs(got - expected) <= tolerance * max(size, abs(expected)) + 1e-7:
            return True
    return False


def _slope(total: Callable[[Tensor, Tensor], float], log_probs: Tensor, entropy: Tensor, *, step: float) -> float:
    forward, backward = total(step * log_probs, step * entropy), total(-step * log_probs, -step * entropy)
    return (forward - backward) / (2 * step)


def _along(trial: Trial, log_probs: Tensor, entropy: Tensor) -> float:
    return float((trial.gradient * log_probs).sum() + (trial.entropy_gradient * entropy).sum())


def check_inputs_steer(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """What is declared and changes the loss, changes its gradient too."""
    expected = run(loss, batch)
    for need in sorted(_COSTLY & needs_of(loss)):
        if need == Need.ENTROPY and expected.entropy_gradient.any():
            continue
        changes = {name: getattr(batch, need.value) + amount for name, amount in (("0.1", 0.1), ("1", 1.0))}
        trials = [run(loss, replace(batch, **{need.value: changed})) for changed in changes.values()]
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


_REMEDIES = {
    Need.REF_LOG_PROBS: "log_probs - ref_log_probs (k1), or any KL under no_grad, has no reference in its gradient: as "
    "a loss it pulls nowhere. Use kl_loss(log_probs, ref_log_probs, 'k2') or 'k3' from skyrl_core.maths.kl",
    Need.ROLLOUT_LOG_PROBS: "use the ratio exp(log_probs - rollout_log_probs), or a weight made of it; a difference of "
    "log-probs has the gradient of log_probs alone",
    Need.ENTROPY: "do not detach the entropy: a bonus without gradient changes the logged loss and nothing else",
}


def check_sampled_entropy(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """A term of the sampled tokens alone moves the exact entropy in one direction, on flat and on peaked policies."""
    if needs_of(loss) & {Need.ENTROPY, Need.REF_LOG_PROBS} or type(loss).ignores_advantages:
        return []
    if not advantage_effect(loss, batch.on_policy()).any():
        return []  # the business of gradient_sign
    flat = _entropy_change(loss, torch.log(torch.tensor([0.2, *[0.02] * 40])))
    peaked = _entropy_change(loss, torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])))
    if flat * peaked < 0:
        raise Violation(
            "with every advantage 0 the expected step changes the exact entropy by "
            f"{peaked:+.3g} per unit where four tokens have probabilities 0.5, 0.3, 0.15 and 0.05, and by {flat:+.3g} "
            "where one has 0.2 and forty have 0.02"
        )
    return []


def _entropy_change(loss: PolicyLoss, log_policy: Tensor) -> float:
    """Of one step of unit learning rate on the logits, to first order, in expectation over the sampled token."""
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


GRADIENT = Rule(
    name="gradient",
    explanation="autograd gives the derivative of the loss, taking what is detached as constant (float64, differences)",
    remedy="correct the backward of the autograd.Function, or let autograd derive it",
    breaks="an autograd.Function whose backward forgets a factor; a straight-through clip",
    check=check_gradient,
)
INPUTS_STEER = Rule(
    name="inputs_steer",
    explanation="a reference or rollout policy, or an entropy, that changes the loss also changes its gradient",
    remedy="make the term differentiable, or log it as a metric and leave it out of the loss",
    breaks="beta * (log_probs - ref_log_probs) as a KL penalty (k1); a bonus on entropy.detach()",
    check=check_inputs_steer,
)
SAMPLED_ENTROPY = Rule(
    name="sampled_entropy",
    explanation="a bonus made of the sampled log-probs alone pulls the entropy the same way whatever the policy is",
    remedy="exp(lp) * lp is one summand of the entropy, not an estimate of it: sampling counts its probability twice. "
    "Declare Need.ENTROPY and subtract coef * batch.entropy, which is exact and carries gradient",
    breaks="- coef * -(log_probs.exp() * log_probs), averaged over the sampled tokens, as an entropy bonus",
    check=check_sampled_entropy,
    quick=False,
)
