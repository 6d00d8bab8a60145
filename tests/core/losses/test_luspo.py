"""luspo: GSPO's clipped sequence ratio, weighted by the length."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.losses.luspo import LuspoLoss
from skyrl_core.losses.params import LuspoParams


def oracle(tokens, low: float, high: float) -> tuple[list[float], list[float]]:
    """-min(s A, clip(s) A) at each token; their sum has the gradient -s A at each token, or 0."""
    if not tokens:
        return [], []
    s = math.exp(sum(token.p - token.o for token in tokens) / len(tokens))
    a = tokens[0].a
    objective = min(s * a, min(max(s, low), high) * a)
    clipped = objective != s * a
    return [-objective] * len(tokens), [0.0 if clipped else -s * a] * len(tokens)


@pytest.mark.parametrize("clip", [0.05, 0.9])
def test_loss_and_gradient_match_the_paper(assert_sequences_match, clip: float) -> None:
    loss = LuspoLoss(LuspoParams(clip_low=clip, clip_high=clip))
    assert_sequences_match(loss, lambda tokens: oracle(tokens, 1 - clip, 1 + clip), same_advantage=True)


def test_the_default_reduction_weighs_a_sequence_by_its_length() -> None:
    assert LuspoLoss.default_reduction == "sequence_sum"
    log_probs = torch.tensor([[-1.0, -1.0, -1.0, -1.0], [-1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    total = LuspoLoss(LuspoParams()).compute_loss(log_probs, log_probs, torch.full_like(log_probs, 3.0), mask)
    # ratio 1: (4 · 3 + 1 · 3) / 2 sequences
    assert total.item() == pytest.approx(-7.5, abs=1e-12)


@pytest.mark.parametrize(
    ("move", "advantage", "clipped"),
    [
        (2.5e-3 - 1e-9, 1.0, False),
        (2.5e-3 + 1e-9, 1.0, True),
        (2.5e-3 + 1e-9, -1.0, False),
        (-2e-3 + 1e-9, -1.0, False),
        (-2e-3 - 1e-9, -1.0, True),
        (-2e-3 - 1e-9, 1.0, False),
    ],
)
def test_the_default_bounds_are_those_of_the_paper(
    value_and_gradient, move: float, advantage: float, clipped: bool
) -> None:
    value, gradient = value_and_gradient(LuspoLoss(LuspoParams()), 1 + move, advantage)
    bound = {1.0: 1.0025, -1.0: 0.998}[advantage]
    assert value == pytest.approx(-(bound if clipped else 1 + move) * advantage, abs=1e-12)
    assert gradient == pytest.approx(0.0 if clipped else -(1 + move) * advantage, abs=1e-12)


@pytest.mark.parametrize("wrong", [{"clip_low": 1.5}, {"clip_high": 0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        LuspoParams(**wrong)
