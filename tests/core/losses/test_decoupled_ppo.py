"""decoupled_ppo: clipped around the old policy, weighted for the policy that sampled."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import LossBatch, Need
from skyrl_core.losses.decoupled_ppo import DecoupledPpoLoss
from skyrl_core.losses.params import DecoupledPpoParams


@pytest.mark.parametrize("cap", [None, 5.0, 1.05])
def test_loss_and_gradient_match_the_paper(assert_tokens_match, cap: float | None) -> None:
    def oracle(token) -> tuple[float, float]:
        ratio, weight = math.exp(token.p - token.o), math.exp(token.o - token.q)
        if cap is not None and weight > cap:
            weight = 0.0
        objective = min(ratio * token.a, min(max(ratio, 0.8), 1.3) * token.a)
        return -weight * objective, -weight * ratio * token.a if objective == ratio * token.a else 0.0

    assert_tokens_match(DecoupledPpoLoss(DecoupledPpoParams(clip_high=0.3, behave_cap=cap)), oracle)


def one_token(loss: DecoupledPpoLoss, ratio: float, weight: float, advantage: float):
    old = torch.tensor([[-2.0]], dtype=torch.float64)
    log_probs = (old + math.log(ratio)).requires_grad_()
    batch = LossBatch(
        log_probs=log_probs,
        advantages=torch.full_like(old, advantage),
        mask=torch.ones(1, 1, dtype=torch.bool),
        inputs={Need.OLD_LOG_PROBS: old, Need.ROLLOUT_LOG_PROBS: old - math.log(weight)},
        needs=loss.needs(loss.params),
    )
    output = loss.token_losses(batch)
    (gradient,) = torch.autograd.grad(output.values.sum(), log_probs)
    return output.values.item(), gradient.item(), output.metrics


@pytest.mark.parametrize(
    ("ratio", "weight", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, 1.5, -3.0, -3.0),
        (1.2 + 1e-9, 2.0, 1.0, -2.4, 0.0),
        (1.2 - 1e-9, 2.0, 1.0, -2.4, -2.4),
        (0.8 - 1e-9, 2.0, -1.0, 1.6, 0.0),
        (0.8 + 1e-9, 2.0, -1.0, 1.6, 1.6),
        (1.0, 5.0 - 1e-9, 1.0, -5.0, -5.0),
        (1.0, 5.0 + 1e-9, 1.0, 0.0, 0.0),
    ],
)
def test_each_regime_by_hand(ratio: float, weight: float, advantage: float, loss: float, gradient: float) -> None:
    value, slope, metrics = one_token(DecoupledPpoLoss(DecoupledPpoParams()), ratio, weight, advantage)
    assert (value, slope) == pytest.approx((loss, gradient), abs=1e-7)
    assert metrics["kept_fraction"].result() == (loss != 0.0)
    assert metrics["behave_weight_mean"].result() == pytest.approx(weight if loss else 0.0)


def test_it_needs_both_policies() -> None:
    assert DecoupledPpoLoss.needs(DecoupledPpoParams()) == {Need.OLD_LOG_PROBS, Need.ROLLOUT_LOG_PROBS}


@pytest.mark.parametrize("wrong", [{"clip_low": 1.5}, {"clip_high": 0}, {"behave_cap": 1.0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DecoupledPpoParams(**wrong)
