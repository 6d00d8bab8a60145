"""icepop: tokens outside the band of ratios are dropped."""

import math

import pytest
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import Need
from skyrl_core.losses.icepop import IcepopLoss
from skyrl_core.losses.params import IcepopParams


@pytest.mark.parametrize(("low", "high"), [(0.5, 5.0), (0.9, 1.1)])
def test_loss_and_gradient_match_the_paper(assert_tokens_match, low: float, high: float) -> None:
    def oracle(token) -> tuple[float, float]:
        ratio = math.exp(token.p - token.q)
        loss = -ratio * token.a if low <= ratio <= high else 0.0
        return loss, loss

    assert_tokens_match(IcepopLoss(IcepopParams(ratio_low=low, ratio_high=high)), oracle)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(
    ("ratio", "kept"), [(0.5 - 1e-9, False), (0.5 + 1e-9, True), (1.0, True), (5 - 1e-9, True), (5 + 1e-9, False)]
)
def test_each_boundary_for_either_sign(value_and_gradient, ratio: float, kept: bool, advantage: float) -> None:
    expected = -ratio * advantage if kept else 0.0
    assert value_and_gradient(IcepopLoss(IcepopParams()), ratio, advantage) == pytest.approx(
        (expected, expected), abs=1e-12
    )


def test_metrics_count_the_dropped_tokens(by_ratio) -> None:
    loss = IcepopLoss(IcepopParams())
    metrics = loss.token_losses(by_ratio(loss, [0.1, 9.0, 9.0, 1.0], [1.0, 1.0, -1.0, 1.0])).metrics
    assert metrics["clip_fraction_low"].result() == 0.25
    assert metrics["clip_fraction_high"].result() == 0.5
    assert metrics["kept_fraction"].result() == 0.25


def test_it_needs_only_the_rollout_log_probs() -> None:
    assert IcepopLoss.needs(IcepopParams()) == {Need.ROLLOUT_LOG_PROBS}


@pytest.mark.parametrize("wrong", [{"ratio_low": 0}, {"ratio_low": 1.1}, {"ratio_high": 0.9}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        IcepopParams(**wrong)
