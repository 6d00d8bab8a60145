"""kpop: tokens with a large binary KL in either direction are dropped."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import Need
from skyrl_core.losses.kpop import KpopLoss, larger_binary_kl
from skyrl_core.losses.params import KpopParams


def binary_kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("phi", [0.1, 0.004])
def test_loss_and_gradient_match_the_definition(assert_tokens_match, phi: float) -> None:
    kept = []

    def oracle(token) -> tuple[float, float]:
        pi, mu = math.exp(token.p), math.exp(token.q)
        kept.append(max(binary_kl(pi, mu), binary_kl(mu, pi)) <= phi)
        loss = -math.exp(token.p - token.q) * token.a if kept[-1] else 0.0
        return loss, loss

    assert_tokens_match(KpopLoss(KpopParams(phi=phi)), oracle)
    assert 0 < sum(kept) < len(kept)


@pytest.mark.parametrize(("pi", "mu"), [(0.9, 0.5), (0.5, 0.9), (0.001, 0.2), (0.2, 0.001)])
def test_the_larger_direction_decides(pi: float, mu: float) -> None:
    log_pi, log_mu = (torch.tensor([[math.log(x)]], dtype=torch.float64) for x in (pi, mu))
    expected = max(binary_kl(pi, mu), binary_kl(mu, pi))
    assert larger_binary_kl(log_pi, log_mu).item() == pytest.approx(expected, rel=1e-12)
    assert expected > min(binary_kl(pi, mu), binary_kl(mu, pi)) * 1.1


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("factor", "kept"), [(1 + 1e-9, True), (1 - 1e-9, False)])
@pytest.mark.parametrize("ratio", [1.5, 0.5])
def test_each_boundary_for_either_sign(
    value_and_gradient, ratio: float, factor: float, kept: bool, advantage: float
) -> None:
    mu = math.exp(-1)  # the anchor of value_and_gradient
    phi = max(binary_kl(mu * ratio, mu), binary_kl(mu, mu * ratio)) * factor
    expected = -ratio * advantage if kept else 0.0
    loss_and_gradient = value_and_gradient(KpopLoss(KpopParams(phi=phi)), ratio, advantage)
    assert loss_and_gradient == pytest.approx((expected, expected), abs=1e-12)


def test_a_rare_token_may_have_a_ratio_that_a_frequent_one_may_not() -> None:
    rare = larger_binary_kl(torch.tensor([[1e-4]]).log(), torch.tensor([[2e-5]]).log())
    frequent = larger_binary_kl(torch.tensor([[0.99]]).log(), torch.tensor([[0.60]]).log())
    assert rare.item() < 0.1 < frequent.item()


def test_metrics_have_the_kept_fraction_and_the_largest_divergence(by_ratio) -> None:
    loss = KpopLoss(KpopParams())
    metrics = loss.token_losses(by_ratio(loss, [1.0, 1.0, 1.0, 2.5], [1.0, 1.0, -1.0, 1.0])).metrics
    assert metrics["kept_fraction"].result() == 0.75
    mu = math.exp(-1)
    assert metrics["binary_kl_max"].result() == pytest.approx(
        max(binary_kl(2.5 * mu, mu), binary_kl(mu, 2.5 * mu)), rel=1e-5
    )


def test_it_needs_only_the_rollout_log_probs() -> None:
    assert KpopLoss.needs(KpopParams()) == {Need.ROLLOUT_LOG_PROBS}


@pytest.mark.parametrize("phi", [0, -0.1])
def test_rejects_parameters_out_of_range(phi: float) -> None:
    with pytest.raises(ValidationError, match="phi"):
        KpopParams(phi=phi)
