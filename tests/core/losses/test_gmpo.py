"""gmpo: the geometric mean of one-sidedly clipped ratios."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.reduction import count_batch, token_weights, weighted_sum
from skyrl_core.losses.gmpo import GmpoLoss
from skyrl_core.losses.params import GmpoParams


def oracle(tokens, low: float, high: float) -> tuple[list[float], list[float]]:
    """Product of clipped ratios to the power 1 / |y|, as the paper writes it, times -A."""
    if not tokens:
        return [], []
    length, logarithms, open_tokens = len(tokens), [], []
    for token in tokens:
        d = token.p - token.o
        sign = math.copysign(1.0, token.a)
        one_sided = sign * min(sign * d, sign * min(max(d, -low), high))
        logarithms.append(one_sided)
        open_tokens.append(one_sided == d)
    s = math.exp(math.fsum(logarithms) / length)
    # the sum of the token losses is -s sum(A); d s / d p = s / |y| where the clip is open
    slope = -s * math.fsum(token.a for token in tokens) / length
    return [-s * token.a for token in tokens], [slope if is_open else 0.0 for is_open in open_tokens]


@pytest.mark.parametrize("same_advantage", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.4, 0.4), (0.1, 0.3)])
def test_loss_and_gradient_match_the_paper(
    assert_sequences_match, same_advantage: bool, low: float, high: float
) -> None:
    loss = GmpoLoss(GmpoParams(clip_low=low, clip_high=high))
    assert_sequences_match(loss, lambda tokens: oracle(tokens, low, high), same_advantage=same_advantage)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "clipped_to"),
    [
        (0.4 - 1e-9, 1.0, None),
        (0.4 + 1e-9, 1.0, 0.4),
        (0.4 + 1e-9, -1.0, None),
        (-0.4 + 1e-9, -1.0, None),
        (-0.4 - 1e-9, -1.0, -0.4),
        (-0.4 - 1e-9, 1.0, None),
    ],
)
def test_each_side_is_clipped_in_log_space_for_one_sign_only(
    value_and_gradient, log_ratio: float, advantage: float, clipped_to: float | None
) -> None:
    value, gradient = value_and_gradient(GmpoLoss(GmpoParams()), math.exp(log_ratio), advantage)
    expected = -math.exp(log_ratio if clipped_to is None else clipped_to) * advantage
    assert value == pytest.approx(expected, abs=1e-12)
    assert gradient == pytest.approx(expected if clipped_to is None else 0.0, abs=1e-12)


def test_by_hand_a_clipped_token_leaves_the_others_their_gradient(by_ratio) -> None:
    # A > 0: log-ratios 1.0 -> 0.4 and -0.4 stay: mean 0, s = 1; the second token has -s A / 2
    loss = GmpoLoss(GmpoParams())
    batch = by_ratio(loss, [math.exp(1.0), math.exp(-0.4)], [2.0, 2.0])
    output = loss.token_losses(batch)
    weights = token_weights(batch.mask, "sequence_mean", count_batch(batch.mask), dtype=torch.float64)
    total = weighted_sum(output.values, weights, batch.mask)
    (gradient,) = torch.autograd.grad(total, batch.log_probs)
    assert total.item() == pytest.approx(-2.0, abs=1e-12)
    assert gradient.tolist() == [pytest.approx([0.0, -1.0], abs=1e-12)]
    assert output.metrics["clip_fraction_high"].result() == 0.5
    assert output.metrics["clip_fraction_low"].result() == 0.0


def test_a_broken_token_is_bounded_by_its_sequence_not_by_itself(by_ratio) -> None:
    # mean of -60 and 0 is -30: below the bound of -20 of the mean; of -30 and 0: -15, exact
    loss = GmpoLoss(GmpoParams())
    values = loss.token_losses(by_ratio(loss, [math.exp(-30), 1.0], [1.0, 1.0])).values
    assert values.tolist() == [pytest.approx([-math.exp(-15)] * 2, rel=1e-12)]


def test_the_default_reduction_is_that_of_the_paper() -> None:
    assert GmpoLoss.default_reduction == "sequence_mean"


@pytest.mark.parametrize("wrong", [{"clip_low": 0}, {"clip_high": -0.1}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GmpoParams(**wrong)
