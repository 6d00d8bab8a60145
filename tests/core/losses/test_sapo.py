"""sapo: a sigmoid gate instead of the clip."""

import math

import pytest
from pydantic import ValidationError

from skyrl_core.losses.params import SapoParams
from skyrl_core.losses.sapo import SapoLoss


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@pytest.mark.parametrize(("tau_pos", "tau_neg"), [(1.0, 1.05), (3.0, 0.5)])
def test_loss_and_gradient_match_the_paper(assert_tokens_match, tau_pos: float, tau_neg: float) -> None:
    def oracle(token) -> tuple[float, float]:
        ratio, tau = math.exp(token.p - token.o), tau_pos if token.a > 0 else tau_neg
        gate = sigmoid(tau * (ratio - 1))
        # d / d log pi: d r = r, d sigmoid(tau r) = tau p (1 - p)
        return -4 / tau * gate * token.a, -4 * gate * sigmoid(-tau * (ratio - 1)) * ratio * token.a

    assert_tokens_match(SapoLoss(SapoParams(tau_pos=tau_pos, tau_neg=tau_neg)), oracle)


def test_by_hand_at_ratio_one(value_and_gradient) -> None:
    # sigmoid(0) = 1/2: value -(4 / tau) A / 2, gradient -4 · 1/4 · A
    assert value_and_gradient(SapoLoss(SapoParams()), 1.0, 3.0) == pytest.approx((-6.0, -3.0), abs=1e-12)
    assert value_and_gradient(SapoLoss(SapoParams()), 1.0, -2.1) == pytest.approx((4.0, 2.1), abs=1e-12)


def test_a_far_token_has_no_gradient(value_and_gradient) -> None:
    value, gradient = value_and_gradient(SapoLoss(SapoParams()), math.exp(19), -1.05)
    assert (value, gradient) == (pytest.approx(4.0), 0.0)


def test_the_gate_metric_is_the_kept_share_of_the_gradient(by_ratio) -> None:
    loss = SapoLoss(SapoParams())
    metrics = loss.token_losses(by_ratio(loss, [1.0, 1e8], [1.0, 1.0])).metrics
    assert metrics["gate_mean"].result() == pytest.approx(0.5)


def test_the_default_reduction_is_that_of_the_paper() -> None:
    assert SapoLoss.default_reduction == "sequence_mean"


@pytest.mark.parametrize("wrong", [{"tau_pos": 0}, {"tau_neg": -1}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SapoParams(**wrong)
