"""entropy_reg with sampled entropy, and with a weight that adapts to a target entropy."""

import math

import pytest
import torch

from skyrl_core import LossBatch, Need, check_policy_loss
from skyrl_loss_entropyreg.loss import EntropyRegLoss, adapted, sampled_entropy
from skyrl_loss_entropyreg.params import EntropyRegParams

TARGET = EntropyRegParams(entropy_coef=0.01, target_entropy=0.5, adapt_rate=0.005, coef_max=0.02)


def batch_for(params: EntropyRegParams, entropy: float = 2.0) -> LossBatch:
    log_probs = torch.full((1, 2), math.log(0.5), dtype=torch.float64, requires_grad=True)
    return LossBatch(
        log_probs=log_probs,
        advantages=torch.zeros(1, 2, dtype=torch.float64),
        mask=torch.ones(1, 2, dtype=torch.bool),
        inputs={
            Need.OLD_LOG_PROBS: log_probs.detach(),
            Need.ENTROPY: torch.full((1, 2), entropy, dtype=torch.float64, requires_grad=True),
        },
        needs=EntropyRegLoss.needs(params),
    )


def test_the_sampled_estimator_by_hand() -> None:
    params = EntropyRegParams(entropy="sampled", entropy_coef=1.0)
    batch = batch_for(params)
    values = EntropyRegLoss(params).token_losses(batch).values
    # -pi log pi at pi = 1/2. Its derivative by log pi is -pi (log pi + 1).
    torch.testing.assert_close(values, torch.full((1, 2), 0.5 * math.log(0.5), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(values.sum(), batch.log_probs)
    torch.testing.assert_close(gradient, torch.full((1, 2), 0.5 * (math.log(0.5) + 1), dtype=torch.float64))
    assert EntropyRegLoss.needs(params) == {Need.OLD_LOG_PROBS}


def test_the_mean_of_the_sampled_estimator_is_below_the_entropy() -> None:
    probs = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected = (probs * sampled_entropy(probs.log())).sum()
    torch.testing.assert_close(expected, -(probs.square() * probs.log()).sum())
    assert expected < 0.35 * torch.distributions.Categorical(probs=probs).entropy()


@pytest.mark.parametrize(
    ("coef", "entropy", "after"),
    [
        (0.010, 0.4, 0.015),  # too low: more bonus
        (0.010, 0.6, 0.005),  # too high: less
        (0.010, 0.5, 0.010),
        (0.018, 0.4, 0.020),  # never above coef_max
        (0.003, 0.6, 0.000),  # never below 0
    ],
)
def test_the_weight_follows_the_entropy(coef: float, entropy: float, after: float) -> None:
    assert adapted(coef, entropy, TARGET) == pytest.approx(after, abs=1e-15)


def test_the_bonus_applies_only_while_the_entropy_is_at_or_below_the_target() -> None:
    loss = EntropyRegLoss(TARGET)
    assert loss.coef == 0.01
    loss.after_step({"entropy": 0.4})
    assert loss.coef == pytest.approx(0.015)
    loss.after_step({"entropy": 0.9})
    assert (loss.coef, loss.state_dict()["entropy_coef"]) == (0.0, pytest.approx(0.01))
    loss.after_step({"entropy": 0.45})
    assert loss.coef == pytest.approx(0.015)


def test_the_adapted_weight_is_applied_and_logged() -> None:
    loss = EntropyRegLoss(TARGET)
    loss.after_step({"entropy": 0.1})
    output = loss.token_losses(batch_for(TARGET, entropy=3.0))
    torch.testing.assert_close(output.values, torch.full((1, 2), -0.045, dtype=torch.float64))
    assert output.metrics["entropy_coef"].result() == pytest.approx(0.015)
    assert output.metrics["entropy"].result() == pytest.approx(3.0)


def test_a_zero_weight_that_can_adapt_still_measures_the_entropy() -> None:
    params = EntropyRegParams(entropy_coef=0.0, target_entropy=0.5)
    assert Need.ENTROPY in EntropyRegLoss.needs(params)
    assert "entropy" in EntropyRegLoss(params).token_losses(batch_for(params)).metrics


def test_the_state_is_restored_and_a_fixed_weight_has_none() -> None:
    loss, again = EntropyRegLoss(TARGET), EntropyRegLoss(TARGET)
    loss.after_step({"entropy": 0.9})
    again.load_state_dict(loss.state_dict())
    assert (again.coef, again.state_dict()) == (loss.coef, loss.state_dict())
    fixed = EntropyRegLoss(EntropyRegParams())
    fixed.after_step({"entropy": 0.1})
    assert (fixed.state_dict(), fixed.coef) == ({}, 0.01)
    with pytest.raises(ValueError, match="keeps no state"):
        fixed.load_state_dict(loss.state_dict())
    with pytest.raises(ValueError, match="has no 'entropy_is_low'"):
        again.load_state_dict({"entropy_coef": 0.1})


@pytest.mark.parametrize("params", [{}, {"target_entropy": 0.5}, {"target_entropy": 3.0, "entropy_coef": 0.0}])
def test_keeps_every_rule_without_a_waiver(params: dict[str, object]) -> None:
    report = check_policy_loss(EntropyRegLoss(EntropyRegParams(**params)), thorough=True)
    report.raise_for_failures()
    assert report.waived == ()


def test_only_the_bias_of_the_sampled_estimator_is_waived_with_a_reason() -> None:
    report = check_policy_loss(EntropyRegLoss(EntropyRegParams(entropy="sampled")), thorough=True)
    report.raise_for_failures()
    assert [(result.rule, "reproduces runs" in (result.waived or "")) for result in report.waived] == [
        ("sampled_entropy", True)
    ]
