"""dual_clip: PPO's clip, and a second one where the advantage is negative."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.losses.dual_clip import DualClipLoss
from skyrl_core.losses.params import DualClipParams


def loss_of(**params) -> DualClipLoss:
    return DualClipLoss(DualClipParams(**params))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy
        (1.5, 1.0, -1.2, 0.0),  # good token, already likelier: clipped
        (0.5, 1.0, -0.5, -0.5),  # good token, rarer: never clipped
        (0.5, -1.0, 0.8, 0.0),  # bad token, already rarer: clipped
        (1.5, -1.0, 1.5, 1.5),  # bad token, likelier: not yet bounded
        (4.0, -2.0, 6.0, 0.0),  # bad token, far likelier: bounded by 3 · |A|
        (4.0, 2.0, -2.4, 0.0),  # good token: the second clip is not for it
    ],
)
def test_each_regime_by_hand(by_ratio, ratio: float, advantage: float, loss: float, gradient: float) -> None:
    dual_clip = loss_of()
    batch = by_ratio(dual_clip, [ratio], [advantage])
    values = dual_clip.token_losses(batch).values
    (d_log_prob,) = torch.autograd.grad(values.sum(), batch.log_probs)
    assert values.item() == pytest.approx(loss, abs=1e-12)
    assert d_log_prob.item() == pytest.approx(gradient, abs=1e-12)


def test_without_the_second_clip_it_is_ppo(by_ratio) -> None:
    ppo = loss_of(clip_ratio_c=None)
    output = ppo.token_losses(by_ratio(ppo, [4.0], [-2.0]))
    assert output.values.item() == pytest.approx(8.0)
    assert "clip_fraction_dual" not in output.metrics


@pytest.mark.parametrize("c", [None, 1.5])
def test_loss_and_gradient_match_the_formula_on_ragged_masks(ragged, c: float | None) -> None:
    dual_clip = loss_of(clip_low=0.1, clip_high=0.3, clip_ratio_c=c)
    batch = ragged(dual_clip)
    values = dual_clip.token_losses(batch).values
    (gradients,) = torch.autograd.grad(values[batch.mask].sum(), batch.log_probs)
    for row, column in batch.mask.nonzero().tolist():
        a = batch.advantages[row, column].item()
        r = math.exp((batch.log_probs[row, column] - batch.old_log_probs[row, column]).item())
        objective = min(r * a, min(max(r, 0.9), 1.3) * a)
        if c is not None and a < 0:
            objective = max(objective, c * a)
        assert values[row, column].item() == pytest.approx(-objective, abs=1e-12)
        moves = objective == r * a  # the unclipped branch is the only one with a gradient
        assert gradients[row, column].item() == pytest.approx(-r * a if moves else 0.0, abs=1e-12)


def test_metrics_by_hand(by_ratio) -> None:
    dual_clip = loss_of()
    batch = by_ratio(dual_clip, [1.0, 1.5, 0.5, 4.0], [1.0, 1.0, -1.0, -1.0])
    metrics = {name: metric.result() for name, metric in dual_clip.token_losses(batch).metrics.items()}
    assert metrics["clip_fraction_high"] == metrics["clip_fraction_low"] == metrics["clip_fraction_dual"] == 0.25
    assert metrics["ratio_mean"] == pytest.approx(7 / 4)
    assert metrics["ratio_max"] == pytest.approx(4.0)


@pytest.mark.parametrize("wrong", [{"clip_ratio_c": 1.0}, {"clip_low": 0}, {"clip_low": 1.5}, {"clip_high": 0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DualClipParams(**wrong)
