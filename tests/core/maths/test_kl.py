"""KL estimators: their values, and the divergence that each reduces as a loss."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from skyrl_core.maths.kl import kl_estimate, kl_loss
from skyrl_core.parameters.algorithm_options import KlEstimator

F64 = torch.float64


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # x = log 2 and x = -log 2
        ("k1", [math.log(2), -math.log(2)]),
        ("k2", [math.log(2) ** 2 / 2, math.log(2) ** 2 / 2]),
        ("k3", [0.5 - 1 + math.log(2), 2 - 1 - math.log(2)]),
        ("abs", [math.log(2), math.log(2)]),
    ],
)
def test_values_by_hand(estimator: str, expected: list[float]) -> None:
    log_probs = torch.tensor([[math.log(0.5), math.log(0.25)]], dtype=F64)
    ref_log_probs = torch.tensor([[math.log(0.25), math.log(0.5)]], dtype=F64)
    torch.testing.assert_close(kl_estimate(log_probs, ref_log_probs, estimator), torch.tensor([expected], dtype=F64))


@pytest.mark.parametrize("estimator", get_args(KlEstimator))
def test_every_estimator_that_an_option_may_name_is_computed(estimator: KlEstimator) -> None:
    assert kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), estimator).item() == 0.0


def small_policies() -> tuple[Tensor, Tensor]:
    """Logits of a policy over five tokens, and log-probs of a reference."""
    logits = torch.tensor([0.3, -1.2, 0.8, 0.0, -0.4], dtype=F64, requires_grad=True)
    reference = torch.tensor([-0.5, 0.4, 0.1, 1.1, -0.9], dtype=F64).log_softmax(-1)
    return logits, reference


def test_k1_and_k3_average_to_the_kl_divergence_and_abs_does_not() -> None:
    logits, reference = small_policies()
    log_probs = logits.log_softmax(-1).detach()
    kl = (log_probs.exp() * (log_probs - reference)).sum()
    for estimator in ("k1", "k3"):
        mean = (log_probs.exp() * kl_estimate(log_probs, reference, estimator)).sum()
        torch.testing.assert_close(mean, kl)
    assert (log_probs.exp() * kl_estimate(log_probs, reference, "abs")).sum() > 1.2 * kl


def loss_gradient(estimator: str) -> Tensor:
    """Expected gradient of the estimator as a loss: the exact sum over the tokens that the policy may sample."""
    logits, reference = small_policies()
    log_probs = logits.log_softmax(-1)
    sampled_with = log_probs.exp().detach()  # a sample is a constant: no gradient through how often it is drawn
    (gradient,) = torch.autograd.grad((sampled_with * kl_estimate(log_probs, reference, estimator)).sum(), logits)
    return gradient


def divergence_gradient(direction: str) -> Tensor:
    logits, reference = small_policies()
    log_probs = logits.log_softmax(-1)
    reverse = (log_probs.exp() * (log_probs - reference)).sum()
    forward = (reference.exp() * (reference - log_probs)).sum()
    (gradient,) = torch.autograd.grad(reverse if direction == "reverse" else forward, logits)
    return gradient


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    torch.testing.assert_close(loss_gradient("k1"), torch.zeros(5, dtype=F64), atol=1e-12, rtol=0)


def test_k2_as_a_loss_descends_the_reverse_kl() -> None:
    torch.testing.assert_close(loss_gradient("k2"), divergence_gradient("reverse"), atol=1e-12, rtol=0)


def test_k3_as_a_loss_descends_the_forward_kl() -> None:
    torch.testing.assert_close(loss_gradient("k3"), divergence_gradient("forward"), atol=1e-12, rtol=0)


def test_abs_as_a_loss_descends_neither() -> None:
    gradient = loss_gradient("abs")
    for direction in ("reverse", "forward"):
        assert not torch.allclose(gradient, divergence_gradient(direction), atol=1e-2)


def test_k1_is_rejected_as_a_loss_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"gradient is zero in expectation.*'k2'"):
        kl_loss(torch.zeros(1, 1), torch.zeros(1, 1), "k1")


@pytest.mark.parametrize("function", [kl_estimate, kl_loss])
def test_an_unknown_estimator_is_an_error_that_lists_the_known_ones(function) -> None:
    with pytest.raises(ValueError, match="'k4'; known: k1, k2, k3, low_var_kl, abs"):
        function(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


@pytest.mark.parametrize("estimator", ["k2", "k3", "abs"])
@pytest.mark.parametrize("log_ratio", [-1000.0, -50.0, 0.0, 50.0, 1000.0])
def test_loss_and_gradient_are_finite_however_far_the_policies_are_apart(estimator: str, log_ratio: float) -> None:
    log_probs = torch.full((1, 1), log_ratio, requires_grad=True)
    loss = kl_loss(log_probs, torch.zeros(1, 1), estimator).sum()
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_k3_far_above_the_reference_keeps_its_pull() -> None:
    log_probs = torch.full((1, 1), 50.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_loss(log_probs, torch.zeros(1, 1), "k3").sum(), log_probs)
    assert gradient.item() == 1.0  # d/dx of exp(-x) - 1 + x


def test_k3_near_the_reference_is_not_lost_in_float32_rounding() -> None:
    x = torch.tensor([[1e-4]])
    assert kl_estimate(x, torch.zeros(1, 1), "k3").item() == pytest.approx(0.5e-8, rel=1e-2)
