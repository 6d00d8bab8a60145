"""standard: -r A."""

import math

import pytest
import torch

from skyrl_core.losses.standard import StandardLoss

LOSS = StandardLoss(StandardLoss.Params())


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.0, 2.0, -2.0), (1.5, 1.0, -1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.5), (1.5, -1.0, 1.5)],
)
def test_each_regime_by_hand_and_no_clip(by_ratio, ratio: float, advantage: float, loss: float) -> None:
    batch = by_ratio(LOSS, [ratio], [advantage])
    values = LOSS.token_losses(batch).values
    (gradient,) = torch.autograd.grad(values.sum(), batch.log_probs)
    assert values.item() == pytest.approx(loss, abs=1e-12)
    assert gradient.item() == pytest.approx(loss, abs=1e-12)  # d exp(x) / dx = exp(x)


def test_matches_the_formula_on_ragged_masks(ragged) -> None:
    batch = ragged(LOSS)
    values = LOSS.token_losses(batch).values
    for row, column in batch.mask.nonzero().tolist():
        ratio = math.exp((batch.log_probs[row, column] - batch.old_log_probs[row, column]).item())
        assert values[row, column].item() == pytest.approx(-ratio * batch.advantages[row, column].item(), abs=1e-12)


def test_metrics_by_hand(by_ratio) -> None:
    metrics = LOSS.token_losses(by_ratio(LOSS, [1.0, 3.0], [1.0, 1.0])).metrics
    assert metrics.keys() == {"ratio_mean", "ratio_max", "approx_kl"}
    assert metrics["ratio_mean"].result() == pytest.approx(2.0)
    assert metrics["ratio_max"].result() == pytest.approx(3.0)
    assert metrics["approx_kl"].result() == pytest.approx((2 - math.log(3)) / 2)
