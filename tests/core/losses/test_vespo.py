"""vespo: a smooth kernel of the sequence's importance weight."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import Need
from skyrl_core.losses.params import VespoParams
from skyrl_core.losses.vespo import VespoLoss


@pytest.mark.parametrize("params", [(2.0, 3.0, 3.0, 2.0), (0.5, 0.1, 1.0, 0.3)])
def test_loss_and_gradient_match_the_paper(assert_sequences_match, params: tuple[float, ...]) -> None:
    k_pos, lambda_pos, k_neg, lambda_neg = params

    def oracle(tokens) -> tuple[list[float], list[float]]:
        total = math.fsum(token.p - token.q for token in tokens)
        assert abs(total) < 20
        weight = math.exp(total)
        kernels = [
            weight**k * math.exp(lambda_ * (1 - weight))
            for k, lambda_ in ((k_pos, lambda_pos) if token.a >= 0 else (k_neg, lambda_neg) for token in tokens)
        ]
        gradients = [-kernel * token.a for kernel, token in zip(kernels, tokens, strict=True)]
        return [g * token.p for g, token in zip(gradients, tokens, strict=True)], gradients

    loss = VespoLoss(VespoParams(k_pos=k_pos, lambda_pos=lambda_pos, k_neg=k_neg, lambda_neg=lambda_neg))
    assert_sequences_match(loss, oracle)


def test_by_hand_with_two_tokens(by_ratio) -> None:
    # W = 2 · 0.25 = 0.5; kernel 0.5^2 exp(3 · 0.5)
    loss = VespoLoss(VespoParams())
    batch = by_ratio(loss, [2.0, 0.25], [1.0, 1.0])
    output = loss.token_losses(batch)
    (gradient,) = torch.autograd.grad(output.values.sum(), batch.log_probs)
    assert gradient.tolist() == [pytest.approx([-0.25 * math.exp(1.5)] * 2, abs=1e-12)]
    assert output.metrics["ratio_mean"].result() == pytest.approx(0.5)
    assert output.metrics["kernel_mean"].result() == pytest.approx(0.25 * math.exp(1.5))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_kernel_is_one_on_policy_and_fades_on_both_sides(value_and_gradient, advantage: float) -> None:
    loss = VespoLoss(VespoParams())
    at_one, far_below, far_above = (
        value_and_gradient(loss, ratio, advantage)[1] for ratio in (1.0, math.exp(-19), math.exp(19))
    )
    assert at_one == pytest.approx(-advantage, abs=1e-12)
    assert abs(far_below) < 1e-14
    assert far_above == 0.0


def test_an_extreme_exponent_does_not_overflow_float32() -> None:
    loss = VespoLoss(VespoParams(k_pos=200.0, lambda_pos=1e-9))
    log_probs = torch.full((1, 1), -1.0, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    anchor = torch.full((1, 1), -11.0)
    total = loss.compute_loss(log_probs, None, torch.ones(1, 1), mask, rollout_log_probs=anchor)
    assert total.isfinite()


def test_it_needs_the_policy_that_sampled() -> None:
    assert VespoLoss.needs(VespoParams()) == {Need.ROLLOUT_LOG_PROBS}


@pytest.mark.parametrize("wrong", [{"k_pos": -1}, {"lambda_pos": 0}, {"k_neg": -1}, {"lambda_neg": 0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        VespoParams(**wrong)
