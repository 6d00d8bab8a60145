"""entropy_reg against numbers worked out by hand, against autograd, and against the contract."""

import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from skyrl_core import LossBatch, Need, check_policy_loss
from skyrl_loss_entropyreg.loss import EntropyRegLoss
from skyrl_loss_entropyreg.params import EntropyRegParams


def batch_of(
    ratios: list[float], advantages: list[float], entropies: list[float], params: EntropyRegParams
) -> LossBatch:
    """Return one sequence with the given ratios and entropies, and old log-probs of -1."""
    log_probs = torch.tensor([[math.log(ratio) - 1 for ratio in ratios]], dtype=torch.float64, requires_grad=True)
    return LossBatch(
        log_probs=log_probs,
        advantages=torch.tensor([advantages], dtype=torch.float64),
        mask=torch.ones_like(log_probs, dtype=torch.bool),
        inputs={
            Need.OLD_LOG_PROBS: torch.full_like(log_probs, -1.0),
            Need.ENTROPY: torch.tensor([entropies], dtype=torch.float64, requires_grad=True),
        },
        needs=EntropyRegLoss.needs(params),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # The policy term of each row, minus 0.5 · 3 nats
        (1.0, 2.0, -2.0 - 1.5, -2.0),  # on policy
        (1.5, 1.0, -1.2 - 1.5, 0.0),  # good token, already likelier: clipped
        (0.5, 1.0, -0.5 - 1.5, -0.5),  # good token, rarer: never clipped
        (0.5, -1.0, 0.8 - 1.5, 0.0),  # bad token, already rarer: clipped
        (1.5, -1.0, 1.5 - 1.5, 1.5),  # bad token, likelier: never clipped
    ],
)
def test_each_regime_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    params = EntropyRegParams(entropy_coef=0.5)
    batch = batch_of([ratio], [advantage], [3.0], params)
    values = EntropyRegLoss(params).token_losses(batch).values
    d_log_prob, d_entropy = torch.autograd.grad(values.sum(), [batch.log_probs, batch.entropy])
    assert values.item() == pytest.approx(loss, abs=1e-12)
    assert d_log_prob.item() == pytest.approx(gradient, abs=1e-12)
    assert d_entropy.item() == -0.5


def test_without_bounds_it_is_the_plain_ratio_policy_gradient() -> None:
    params = EntropyRegParams(entropy_coef=0.0, clip_low=None, clip_high=None)
    batch = batch_of([0.1, 7.0, 0.1, 7.0], [1.0, 1.0, -1.0, -1.0], [0.0] * 4, params)
    output = EntropyRegLoss(params).token_losses(batch)
    torch.testing.assert_close(output.values[0], torch.tensor([-0.1, -7.0, 0.1, 7.0], dtype=torch.float64))
    assert output.metrics["clip_fraction_low"].result() == output.metrics["clip_fraction_high"].result() == 0


def test_a_single_bound_clips_one_side() -> None:
    params = EntropyRegParams(entropy_coef=0.0, clip_low=None, clip_high=0.2)
    batch = batch_of([0.5, 1.5], [-1.0, 1.0], [0.0] * 2, params)
    values = EntropyRegLoss(params).token_losses(batch).values
    torch.testing.assert_close(values[0], torch.tensor([0.5, -1.2], dtype=torch.float64))


def test_terms_add_up_to_the_loss_and_entropy_is_logged() -> None:
    params = EntropyRegParams(entropy_coef=0.5)
    output = EntropyRegLoss(params).token_losses(batch_of([1.0, 1.5], [2.0, 1.0], [3.0, 1.0], params))
    torch.testing.assert_close(output.terms["policy"] + output.terms["entropy"], output.values)
    assert output.metrics["entropy"].result() == 2.0
    assert output.metrics["ratio_mean"].result() == pytest.approx(1.25)


def test_entropy_is_needed_only_with_a_bonus() -> None:
    assert EntropyRegLoss.needs(EntropyRegParams()) == {Need.OLD_LOG_PROBS, Need.ENTROPY}
    assert EntropyRegLoss.needs(EntropyRegParams(entropy_coef=0)) == {Need.OLD_LOG_PROBS}


def test_a_step_on_the_bonus_flattens_the_distribution() -> None:
    params = EntropyRegParams(entropy_coef=1.0)
    logits = torch.tensor([[[2.0, 0.0, -1.0]]], dtype=torch.float64, requires_grad=True)

    def entropy_of(logits: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Categorical(logits=logits).entropy()

    log_probs = logits.log_softmax(-1)[..., 0]
    batch = LossBatch(
        log_probs=log_probs,
        advantages=torch.zeros_like(log_probs),
        mask=torch.ones(1, 1, dtype=torch.bool),
        inputs={Need.OLD_LOG_PROBS: log_probs.detach(), Need.ENTROPY: entropy_of(logits)},
        needs=EntropyRegLoss.needs(params),
    )
    (gradient,) = torch.autograd.grad(EntropyRegLoss(params).token_losses(batch).values.sum(), logits)
    # By hand: d H / d logit_v = -pi_v (log pi_v + H)
    probs = logits.softmax(-1)
    torch.testing.assert_close(gradient, (probs * (probs.log() + entropy_of(logits))).detach())
    assert entropy_of(logits - 0.1 * gradient) > entropy_of(logits)


@pytest.mark.parametrize(
    "params", [{}, {"entropy_coef": 0.0}, {"entropy_coef": 1.0}, {"clip_low": None, "clip_high": None}]
)
def test_keeps_the_contract(params: dict[str, float | None]) -> None:
    check_policy_loss(EntropyRegLoss(EntropyRegParams(**params))).raise_for_failures()


@pytest.mark.parametrize("wrong", [{"entropy_coef": -0.1}, {"clip_low": 0}, {"clip_high": -1}, {"entropy": 0.1}])
def test_rejects_parameters_that_are_out_of_range_or_unknown(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EntropyRegParams(**wrong)


def test_describes_every_parameter() -> None:
    assert all(field.description for field in EntropyRegParams.model_fields.values())


def test_parameters_are_checked_without_torch() -> None:
    code = "import sys, skyrl_loss_entropyreg.params; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
