"""Bounded ratios, the clipped surrogate and its metrics."""

import math

import pytest
import torch

from skyrl_core.maths.ratio import bounded, clip_metrics, clipped_surrogate, ratio_metrics

F64 = torch.float64
RATIOS = torch.tensor([[1.0, 1.5, 0.5, 0.5, 1.5]], dtype=F64)
ADVANTAGES = torch.tensor([[2.0, 1.0, 1.0, -1.0, -1.0]], dtype=F64)


def test_ordinary_log_ratios_pass_unchanged_with_their_gradient() -> None:
    log_ratio = torch.tensor([-20.0, -0.5, 0.0, 3.0, 20.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(bounded(log_ratio).sum(), log_ratio)
    assert torch.equal(bounded(log_ratio), log_ratio)
    assert gradient.tolist() == [1.0] * 5


def test_extreme_log_ratios_are_cut_and_get_no_gradient() -> None:
    log_ratio = torch.tensor([-math.inf, -50.0, 50.0, math.inf], requires_grad=True)
    bound = bounded(log_ratio)
    (gradient,) = torch.autograd.grad(bound.exp().sum(), log_ratio)
    assert bound.tolist() == [-20.0, -20.0, 20.0, 20.0]
    assert gradient.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("clip_low", "clip_high", "expected"),
    [
        (0.2, 0.2, [-2.0, -1.2, -0.5, 0.8, 1.5]),
        (0.2, 0.3, [-2.0, -1.3, -0.5, 0.8, 1.5]),
        (None, 0.2, [-2.0, -1.2, -0.5, 0.5, 1.5]),
        (0.2, None, [-2.0, -1.5, -0.5, 0.8, 1.5]),
        (None, None, [-2.0, -1.5, -0.5, 0.5, 1.5]),
    ],
)
def test_surrogate_by_hand(clip_low: float | None, clip_high: float | None, expected: list[float]) -> None:
    values = clipped_surrogate(RATIOS, ADVANTAGES, clip_low=clip_low, clip_high=clip_high)
    torch.testing.assert_close(values, torch.tensor([expected], dtype=F64))


def test_clip_metrics_count_only_tokens_whose_gradient_is_removed() -> None:
    mask = torch.ones_like(RATIOS, dtype=torch.bool)
    metrics = clip_metrics(RATIOS, ADVANTAGES, mask, clip_low=0.2, clip_high=0.2)
    surrogate_input = RATIOS.clone().requires_grad_()
    values = clipped_surrogate(surrogate_input, ADVANTAGES, clip_low=0.2, clip_high=0.2)
    (gradient,) = torch.autograd.grad(values.sum(), surrogate_input)
    assert metrics["clip_fraction_low"].result() == pytest.approx(1 / 5)
    assert metrics["clip_fraction_high"].result() == pytest.approx(1 / 5)
    assert (gradient == 0).sum() == 2


def test_ratio_metrics_by_hand_leave_out_masked_tokens() -> None:
    log_ratio = torch.tensor([[math.log(2.0), math.log(0.5), 40.0]], dtype=F64)
    mask = torch.tensor([[True, True, False]])
    metrics = ratio_metrics(log_ratio.exp(), log_ratio, mask)
    assert metrics["ratio_mean"].result() == pytest.approx(1.25)
    assert metrics["ratio_max"].result() == pytest.approx(2.0)
    # k3 of the old policy against the new: r - 1 - log r
    assert metrics["approx_kl"].result() == pytest.approx((1 - math.log(2) + -0.5 + math.log(2)) / 2)
