"""cispo: the clamped ratio is a weight, every token keeps a gradient."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import Need
from skyrl_core.losses.cispo import CispoLoss
from skyrl_core.losses.params import CispoParams


def loss_of(**params) -> CispoLoss:
    return CispoLoss(CispoParams(**params))


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [
        (1.0, 2.0, 1.0),
        (1.5, 1.0, 1.5),
        (0.5, 1.0, 0.5),  # no lower bound by default
        (0.5, -1.0, 0.5),
        (7.0, -1.0, 5.0),  # above 1 + 4
    ],
)
def test_each_regime_by_hand(by_ratio, ratio: float, advantage: float, weight: float) -> None:
    cispo = loss_of()
    batch = by_ratio(cispo, [ratio], [advantage])
    values = cispo.token_losses(batch).values
    (gradient,) = torch.autograd.grad(values.sum(), batch.log_probs)
    assert values.item() == pytest.approx(-weight * advantage * (math.log(ratio) - 1), abs=1e-12)
    assert gradient.item() == pytest.approx(-weight * advantage, abs=1e-12)


def test_the_bounds_are_offsets_from_one(by_ratio) -> None:
    cispo = loss_of(clip_low=0.2, clip_high=0.5)
    batch = by_ratio(cispo, [0.1, 9.0], [-1.0, -1.0])
    (gradient,) = torch.autograd.grad(cispo.token_losses(batch).values.sum(), batch.log_probs)
    torch.testing.assert_close(gradient, torch.tensor([[0.8, 1.5]], dtype=torch.float64))


@pytest.mark.parametrize("anchor", ["old", "rollout"])
def test_gradient_matches_the_formula_on_ragged_masks(ragged, anchor: str) -> None:
    cispo = loss_of(anchor=anchor, clip_low=0.3, clip_high=0.3)
    batch = ragged(cispo)
    reference = batch.old_log_probs if anchor == "old" else batch.rollout_log_probs
    (gradients,) = torch.autograd.grad(cispo.token_losses(batch).values[batch.mask].sum(), batch.log_probs)
    for row, column in batch.mask.nonzero().tolist():
        ratio = math.exp((batch.log_probs[row, column] - reference[row, column]).item())
        expected = -min(max(ratio, 0.7), 1.3) * batch.advantages[row, column].item()
        assert gradients[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_the_anchor_determines_needs() -> None:
    assert CispoLoss.needs(CispoParams()) == {Need.OLD_LOG_PROBS}
    assert CispoLoss.needs(CispoParams(anchor="rollout")) == {Need.ROLLOUT_LOG_PROBS}


def test_clip_fractions_count_clamped_weights_of_either_sign(by_ratio) -> None:
    cispo = loss_of(clip_low=0.2, clip_high=0.5)
    metrics = cispo.token_losses(by_ratio(cispo, [0.1, 9.0, 9.0, 1.0], [1.0, 1.0, -1.0, 1.0])).metrics
    assert metrics["clip_fraction_low"].result() == 0.25
    assert metrics["clip_fraction_high"].result() == 0.5


@pytest.mark.parametrize("wrong", [{"anchor": "ref"}, {"clip_low": 1.5}, {"clip_high": 0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CispoParams(**wrong)
