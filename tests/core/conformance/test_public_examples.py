"""The two losses in SkyRL's public documents train as they are written, and the check finds what is wrong in them."""

import pytest
import torch

from skyrl_core.conformance import check_policy_loss
from skyrl_core.conformance.check_report import Report
from skyrl_core.contract.policy_loss import PolicyLoss


class MyCustomPolicyLoss(PolicyLoss):
    """PPO's clip between 0.8 and 1.2, and a parameter that it reads but does not use."""

    def __init__(self, config):
        super().__init__(config)
        self.my_param = config.get("my_param", 1.0)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        ratio = torch.exp(log_probs - old_log_probs)
        clipped = torch.clamp(ratio, 0.8, 1.2)
        per_token = torch.max(-ratio * advantages, -clipped * advantages)
        return (per_token * masks).sum() / masks.sum()


class EntropyRegularizedLoss(PolicyLoss):
    """A policy gradient with a bonus that is meant to be the entropy."""

    def __init__(self, config):
        super().__init__(config)
        self.entropy_coef = config.get("entropy_coef", 0.01)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        ratio = torch.exp(log_probs - old_log_probs)
        policy = -(ratio * advantages * masks).sum() / masks.sum()
        entropy = -(log_probs.exp() * log_probs * masks).sum() / masks.sum()
        return policy - self.entropy_coef * entropy


def checked(cls: type[PolicyLoss], *, thorough: bool, **params: float) -> Report:
    return check_policy_loss(cls(cls.Params(**params)), thorough=thorough)


@pytest.mark.parametrize("cls", [MyCustomPolicyLoss, EntropyRegularizedLoss])
def test_both_train_as_they_are_written(cls: type[PolicyLoss]) -> None:
    report = checked(cls, thorough=False)
    report.raise_for_failures()
    [(rule, notes)] = [(result.rule, result.notes) for result in report.results if result.notes]
    assert rule == "finite"
    assert "every log-ratio +200: not finite; clamp the log-ratio before exp" in notes[0]


def test_the_unused_parameter_of_the_first_is_found() -> None:
    (failure,) = checked(MyCustomPolicyLoss, thorough=True).failures
    assert failure.rule == "parameters"
    assert (failure.failure or "").startswith("my_param has no effect: 1.0 and 2.0, 0.5, ")
    assert failure.remedy == "use the parameter, or remove it: a config that sets it would have no effect"


def test_the_bonus_of_the_second_is_found_not_to_be_an_entropy() -> None:
    (failure,) = checked(EntropyRegularizedLoss, thorough=True).failures
    assert failure.rule == "sampled_entropy"
    assert "change the exact entropy by +0.000175 (per unit of learning rate) for four tokens" in str(failure.failure)
    assert "but by -3.85e-05 for one token with 0.2 and forty with 0.02" in str(failure.failure)
    assert failure.remedy == (
        "exp(lp) * lp is one term of the entropy, not an estimate: sampling counts its probability twice. "
        "Declare Need.ENTROPY and subtract coef * batch.entropy, which is exact and carries gradient"
    )


def test_the_numbers_in_that_message_match_autograd_on_the_full_distribution() -> None:
    def change(probabilities: list[float]) -> float:
        logits = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
        log_policy = logits.log_softmax(-1)
        # The expectation of the gradient: sampling is not differentiated.
        bonus = (log_policy.exp().detach() * log_policy.exp() * log_policy).sum()
        (step,) = torch.autograd.grad(0.01 * bonus, logits, retain_graph=True)
        (slope,) = torch.autograd.grad(-(log_policy.exp() * log_policy).sum(), logits)
        return float(-(step * slope).sum())

    assert change([0.5, 0.3, 0.15, 0.05]) == pytest.approx(0.000175, rel=0.005)
    assert change([0.2, *[0.02] * 40]) == pytest.approx(-3.85e-05, rel=0.005)


def test_a_misspelled_parameter_is_found() -> None:
    (failure,) = checked(EntropyRegularizedLoss, thorough=True, entropy_coeff=0.5).failures[1:]
    assert failure.failure == (
        "entropy_coeff is given, but the loss reads only entropy_coef; did you mean 'entropy_coef'?"
    )
