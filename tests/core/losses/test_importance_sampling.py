"""importance_sampling: -r A against the policy that sampled."""

import math

import pytest

from skyrl_core.contract.policy_loss import Need
from skyrl_core.losses.importance_sampling import ImportanceSamplingLoss
from skyrl_core.losses.params import ImportanceSamplingParams


@pytest.mark.parametrize("anchor", ["old", "rollout"])
def test_loss_and_gradient_match_the_formula(assert_tokens_match, anchor: str) -> None:
    def oracle(token) -> tuple[float, float]:
        ratio = math.exp(token.p - (token.o if anchor == "old" else token.q))
        return -ratio * token.a, -ratio * token.a

    assert_tokens_match(ImportanceSamplingLoss(ImportanceSamplingParams(anchor=anchor)), oracle)


def test_the_anchor_is_the_rollout_engine_by_default_and_determines_needs() -> None:
    assert ImportanceSamplingLoss.needs(ImportanceSamplingParams()) == {Need.ROLLOUT_LOG_PROBS}
    assert ImportanceSamplingLoss.needs(ImportanceSamplingParams(anchor="old")) == {Need.OLD_LOG_PROBS}


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [(1.0, 2.0, -2.0), (50.0, 1.0, -50.0), (0.02, -1.0, 0.02)])
def test_by_hand_without_any_clip(value_and_gradient, ratio: float, advantage: float, loss: float) -> None:
    loss_and_gradient = value_and_gradient(ImportanceSamplingLoss(ImportanceSamplingParams()), ratio, advantage)
    assert loss_and_gradient == pytest.approx((loss, loss), abs=1e-12)  # d exp(x) / dx = exp(x)
