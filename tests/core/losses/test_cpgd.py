"""cpgd: the clipped log-ratio, and a penalty on the drift."""

import math

import pytest
from pydantic import ValidationError

from skyrl_core.losses.cpgd import CpgdLoss
from skyrl_core.losses.params import CpgdParams


@pytest.mark.parametrize(("low", "high", "coef"), [(0.2, 0.2, 0.01), (0.1, 0.4, 0.0), (0.3, 0.2, 1.5)])
def test_loss_and_gradient_match_the_paper(assert_tokens_match, low: float, high: float, coef: float) -> None:
    def oracle(token) -> tuple[float, float]:
        d = token.p - token.o
        objective = min(d * token.a, min(max(d, math.log(1 - low)), math.log(1 + high)) * token.a)
        policy_gradient = -token.a if objective == d * token.a else 0.0
        return (
            -objective + coef * (math.exp(d) - 1 - d),
            policy_gradient + coef * (math.exp(d) - 1),
        )

    assert_tokens_match(CpgdLoss(CpgdParams(clip_low=low, clip_high=high, drift_coef=coef)), oracle)


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped_to"),
    [
        (1.2 - 1e-9, 1.0, None),
        (1.2 + 1e-9, 1.0, 1.2),
        (1.2 + 1e-9, -1.0, None),
        (0.8 + 1e-9, -1.0, None),
        (0.8 - 1e-9, -1.0, 0.8),
        (0.8 - 1e-9, 1.0, None),
    ],
)
def test_each_boundary(value_and_gradient, ratio: float, advantage: float, clipped_to: float | None) -> None:
    value, gradient = value_and_gradient(CpgdLoss(CpgdParams(drift_coef=0)), ratio, advantage)
    assert value == pytest.approx(-math.log(clipped_to or ratio) * advantage, abs=1e-12)
    assert gradient == pytest.approx(-advantage if clipped_to is None else 0.0, abs=1e-12)


def test_by_hand_the_drift_term_opposes_the_move(value_and_gradient) -> None:
    # A = 0, r = 3: 2 (3 - 1 - log 3) and 2 (3 - 1)
    value, gradient = value_and_gradient(CpgdLoss(CpgdParams(drift_coef=2.0)), 3.0, 0.0)
    assert (value, gradient) == pytest.approx((2 * (2 - math.log(3)), 4.0), abs=1e-12)


def test_terms_add_up_to_the_loss_and_clips_are_counted(by_ratio) -> None:
    loss = CpgdLoss(CpgdParams())
    output = loss.token_losses(by_ratio(loss, [1.5, 0.5, 1.0, 1.5], [1.0, -1.0, 1.0, -1.0]))
    assert sum(output.terms.values()).tolist() == output.values.tolist()
    assert output.metrics["clip_fraction_high"].result() == 0.25
    assert output.metrics["clip_fraction_low"].result() == 0.25


@pytest.mark.parametrize("wrong", [{"clip_low": 1.0}, {"clip_high": 0}, {"drift_coef": -1}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CpgdParams(**wrong)
