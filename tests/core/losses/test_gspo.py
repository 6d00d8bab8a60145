"""gspo: one clipped ratio per sequence."""

import math

import pytest
import torch
from torch import Tensor

from skyrl_core.contract.reduction import count_batch, token_weights, weighted_sum
from skyrl_core.losses.gspo import GspoLoss, sequence_ratio
from skyrl_core.losses.params import GspoParams

LEVELS = ("token", "sequence")


def loss_of(**params) -> GspoLoss:
    return GspoLoss(GspoParams(**params))


def reduced(loss: GspoLoss, batch, reduction: str = "sequence_mean") -> Tensor:
    weights = token_weights(batch.mask, reduction, count_batch(batch.mask), dtype=torch.float64)
    return weighted_sum(loss.token_losses(batch).values, weights, batch.mask)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("ratios", "advantage", "loss", "clipped"),
    [
        # the sequence ratio is the geometric mean
        ([1.0, 1.0], 2.0, -2.0, False),
        ([2.0, 2.0], 1.0, -1.2, True),
        ([4.0, 1.0], 1.0, -1.2, True),  # geometric mean 2
        ([4.0, 0.25], 1.0, -1.0, False),  # geometric mean 1: no token is clipped by itself
        ([0.25, 1.0], 1.0, -0.5, False),
        ([0.25, 1.0], -1.0, 0.8, True),
        ([4.0, 1.0], -1.0, 2.0, False),
    ],
)
def test_each_regime_by_hand(
    by_ratio, level: str, ratios: list[float], advantage: float, loss: float, clipped: bool
) -> None:
    gspo = loss_of(level=level, clip_low=0.2, clip_high=0.2)
    batch = by_ratio(gspo, ratios, [advantage] * 2)
    output = gspo.token_losses(batch)
    (gradient,) = torch.autograd.grad(reduced(gspo, batch), batch.log_probs)
    assert output.values.tolist() == [pytest.approx([loss] * 2, abs=1e-12)]
    # -s A / |y| for each of two tokens, or nothing
    assert gradient.tolist() == [pytest.approx([0.0 if clipped else loss / 2] * 2, abs=1e-12)]


@pytest.mark.parametrize("level", LEVELS)
def test_loss_and_gradient_match_the_paper_on_ragged_masks(ragged, level: str) -> None:
    gspo = loss_of(level=level, clip_low=0.05, clip_high=0.07)
    batch = ragged(gspo, same_advantage=True)
    sequences = [row for row in range(len(batch.mask)) if batch.mask[row].any()]
    loss, expected = 0.0, torch.zeros_like(batch.log_probs)
    for row in sequences:
        tokens = batch.mask[row].nonzero().flatten().tolist()
        a = batch.advantages[row, tokens[0]].item()
        log_s = sum((batch.log_probs[row, t] - batch.old_log_probs[row, t]).item() for t in tokens) / len(tokens)
        s = math.exp(log_s)
        objective = min(s * a, min(max(s, 0.95), 1.07) * a)
        loss -= objective / len(sequences)
        for t in tokens:
            expected[row, t] = -s * a / len(tokens) / len(sequences) if objective == s * a else 0.0
    total = reduced(gspo, batch)
    (gradient,) = torch.autograd.grad(total, batch.log_probs)
    assert total.item() == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-12, rtol=0)


def test_levels_differ_where_advantages_differ_within_a_sequence(by_ratio) -> None:
    gradients = {}
    for level in LEVELS:
        gspo = loss_of(level=level)
        batch = by_ratio(gspo, [1.0, 1.0], [1.0, 3.0])
        (gradients[level],) = torch.autograd.grad(reduced(gspo, batch), batch.log_probs)
    assert gradients["token"].tolist() == [pytest.approx([-0.5, -1.5])]  # each its own advantage
    assert gradients["sequence"].tolist() == [pytest.approx([-1.0, -1.0])]  # all the mean


def test_the_default_reduction_is_that_of_the_paper() -> None:
    assert GspoLoss.default_reduction == "sequence_mean"


def test_the_default_bounds_clip_tiny_moves_of_a_sequence(by_ratio) -> None:
    gspo = loss_of()
    just_inside, just_outside = (by_ratio(gspo, [1 + move] * 2, [1.0] * 2) for move in (3.9e-4, 4.1e-4))
    assert gspo.token_losses(just_inside).metrics["clip_fraction_high"].result() == 0
    assert gspo.token_losses(just_outside).metrics["clip_fraction_high"].result() == 1


def test_the_value_of_the_sequence_ratio_does_not_depend_on_the_level_in_float32() -> None:
    log_probs = torch.tensor([[-90.123, -0.001, -17.7]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    token, sequence = (sequence_ratio(log_probs, log_probs - 1e-4, mask, level) for level in LEVELS)
    assert torch.equal(token, sequence)
