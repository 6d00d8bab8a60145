"""clipped_pg against numbers worked out by hand, and against the contract."""

import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from skyrl_core import LossBatch, Need, check_policy_loss
from skyrl_loss_clippedpg.loss import ClippedPGLoss
from skyrl_loss_clippedpg.params import ClippedPGParams


def batch_of(ratios: list[float], advantages: list[float]) -> LossBatch:
    """Return one sequence with the given ratios and old log-probs of -1."""
    log_probs = torch.tensor([[math.log(ratio) - 1 for ratio in ratios]], dtype=torch.float64, requires_grad=True)
    return LossBatch(
        log_probs=log_probs,
        advantages=torch.tensor([advantages], dtype=torch.float64),
        mask=torch.ones_like(log_probs, dtype=torch.bool),
        inputs={Need.OLD_LOG_PROBS: torch.full_like(log_probs, -1.0)},
        needs=ClippedPGLoss.needs(ClippedPGParams()),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy: plain policy gradient
        (1.5, 1.0, -1.28, 0.0),  # good token, already likelier: clipped at 1 + 0.28
        (0.5, 1.0, -0.5, -0.5),  # good token, rarer: never clipped
        (0.5, -1.0, 0.8, 0.0),  # bad token, already rarer: clipped at 1 - 0.2
        (1.5, -1.0, 1.5, 1.5),  # bad token, likelier: never clipped
    ],
)
def test_each_regime_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    batch = batch_of([ratio], [advantage])
    values = ClippedPGLoss(ClippedPGParams(clip_low=0.2, clip_high=0.28)).token_losses(batch).values
    (d_log_prob,) = torch.autograd.grad(values.sum(), batch.log_probs)
    assert values.item() == pytest.approx(loss, abs=1e-12)
    assert d_log_prob.item() == pytest.approx(gradient, abs=1e-12)


def test_metrics_count_the_tokens_stopped_by_the_clip() -> None:
    batch = batch_of([1.0, 1.5, 0.5, 0.5, 1.5], [2.0, 1.0, 1.0, -1.0, -1.0])
    metrics = ClippedPGLoss(ClippedPGParams()).token_losses(batch).metrics
    assert {name: metric.result() for name, metric in metrics.items()} == pytest.approx(
        {
            "clip_fraction_low": 1 / 5,
            "clip_fraction_high": 1 / 5,
            "ratio_mean": 1.0,
            "ratio_max": 1.5,
            # Mean of k3 = r - 1 - log r over the ratios 1, 1.5, 0.5, 0.5, 1.5
            "approx_kl": (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5))) / 5,
        }
    )


@pytest.mark.parametrize("params", [{}, {"clip_low": 1.0, "clip_high": 4.0}, {"clip_low": 0.01, "clip_high": 0.01}])
def test_keeps_the_contract(params: dict[str, float]) -> None:
    check_policy_loss(ClippedPGLoss(ClippedPGParams(**params))).raise_for_failures()


@pytest.mark.parametrize("wrong", [{"clip_low": 0}, {"clip_low": 1.1}, {"clip_high": 0}, {"clip_hihg": 0.2}])
def test_rejects_parameters_that_are_out_of_range_or_unknown(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ClippedPGParams(**wrong)


def test_describes_every_parameter() -> None:
    assert all(field.description for field in ClippedPGParams.model_fields.values())


def test_parameters_are_checked_without_torch() -> None:
    code = "import sys, skyrl_loss_clippedpg.params; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
