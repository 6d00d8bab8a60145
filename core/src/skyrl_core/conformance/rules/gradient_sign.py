"""Rule ``gradient_sign``: a step raises the log-prob of good tokens and lowers that of bad ones."""

from torch import Tensor

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import advantage_effect, first_true
from skyrl_core.contract.policy_loss import PolicyLoss

# Advantages are about 1; after a rare success in a large group they are larger.
SIZES = (1.0, 0.1, 8.0)


def check_gradient_sign(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Compare the on-policy gradient with that at advantage 0, so that terms without the advantage cancel."""
    batch = base.on_policy()
    effect = advantage_effect(loss, batch)
    if type(loss).ignores_advantages:
        return _check_ignored(effect)
    for size in SIZES:
        scaled = base.on_policy().with_advantages(size * batch.advantages[:, 0])
        _check_signs(scaled, advantage_effect(loss, scaled))
    if not (effect * batch.advantages < 0)[batch.advantages > 0].any():
        raise Violation("at ratio 1 no token with advantage +1 gets any gradient from its advantage", batch=batch)
    if not (effect * batch.advantages < 0)[batch.advantages < 0].any():
        return ["tokens with a negative advantage get no gradient at ratio 1: the loss learns from good samples only"]
    return []


def _check_signs(batch: ExampleBatch, effect: Tensor) -> None:
    # A descent step moves log_probs against the gradient.
    if at := first_true(effect * batch.advantages > 1e-6 * (effect * batch.advantages).abs().max()):
        advantage = float(batch.advantages[tuple(at)])
        moves = "lowers" if advantage > 0 else "raises"
        change = f"{float(effect[tuple(at)]):.6g} to d loss / d log_prob: a step {moves} its log-prob"
        raise Violation(f"at ratio 1 the advantage {advantage:+g} of token {at} adds {change}", batch=batch)


def _check_ignored(effect: Tensor) -> list[str]:
    # A supervised loss is correct without advantages. The declaration tells it from one that forgot them.
    if at := first_true(effect != 0):
        raise Violation(
            f"the class declares ignores_advantages, but the advantage of token {at} adds "
            f"{float(effect[tuple(at)]):.6g} to d loss / d log_prob",
            remedy="remove ignores_advantages from the class, or the advantages from the loss",
        )
    return []


GRADIENT_SIGN = Rule(
    name="gradient_sign",
    explanation="at ratio 1 a step raises the log-prob of tokens with A > 0 and lowers that of tokens with A < 0",
    remedy="losses are minimised: multiply -ratio by the advantages, sign included",
    counterexample="a forgotten minus; the absolute value of the advantage",
    check=check_gradient_sign,
)
