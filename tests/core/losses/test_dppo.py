"""dppo: a trust region in probability."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.contract.policy_loss import LossBatch, Need
from skyrl_core.losses.dppo import DppoLoss
from skyrl_core.losses.params import DppoParams


def binary_kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("anchor", ["old", "rollout"])
@pytest.mark.parametrize("kind", ["binary_tv", "binary_kl"])
def test_loss_and_gradient_match_the_paper(assert_tokens_match, kind: str, anchor: str) -> None:
    dropped = []

    def oracle(token) -> tuple[float, float]:
        log_mu = token.o if anchor == "old" else token.q
        pi, mu = math.exp(token.p), math.exp(log_mu)
        divergence = abs(pi - mu) if kind == "binary_tv" else binary_kl(mu, pi)
        outwards = token.a > 0 and pi > mu and divergence > 0.05, token.a < 0 and pi < mu and divergence > 0.02
        dropped.append(any(outwards))
        loss = 0.0 if any(outwards) else -math.exp(token.p - log_mu) * token.a
        return loss, loss

    params = DppoParams(kind=kind, delta_low=0.02, delta_high=0.05, anchor=anchor)
    assert_tokens_match(DppoLoss(params), oracle)
    assert 0 < sum(dropped) < len(dropped)


def one_token(loss: DppoLoss, pi: float, mu: float, advantage: float) -> tuple[float, float, dict]:
    log_probs = torch.tensor([[math.log(pi)]], dtype=torch.float64, requires_grad=True)
    batch = LossBatch(
        log_probs=log_probs,
        advantages=torch.tensor([[advantage]], dtype=torch.float64),
        mask=torch.ones(1, 1, dtype=torch.bool),
        inputs={Need.ROLLOUT_LOG_PROBS: torch.tensor([[math.log(mu)]], dtype=torch.float64)},
        needs=loss.needs(loss.params),
    )
    output = loss.token_losses(batch)
    (gradient,) = torch.autograd.grad(output.values.sum(), log_probs)
    return output.values.item(), gradient.item(), {name: m.result() for name, m in output.metrics.items()}


@pytest.mark.parametrize(
    ("pi", "mu", "advantage", "kept"),
    [
        (0.7 - 1e-9, 0.5, 1.0, True),
        (0.7 + 1e-9, 0.5, 1.0, False),
        (0.7 + 1e-9, 0.5, -1.0, True),  # leads back
        (0.3 + 1e-9, 0.5, -1.0, True),
        (0.3 - 1e-9, 0.5, -1.0, False),
        (0.3 - 1e-9, 0.5, 1.0, True),
        (0.1, 1e-6, 1.0, True),  # a ratio of 100000, a change of a tenth
        (0.99, 0.78, 1.0, False),  # a ratio of 1.27
    ],
)
def test_each_regime_of_total_variation(pi: float, mu: float, advantage: float, kept: bool) -> None:
    value, gradient, metrics = one_token(DppoLoss(DppoParams()), pi, mu, advantage)
    expected = -pi / mu * advantage if kept else 0.0
    assert (value, gradient) == pytest.approx((expected, expected), rel=1e-12)
    assert metrics["kept_fraction"] == kept
    assert metrics["clip_fraction_low" if advantage < 0 else "clip_fraction_high"] == (not kept)


@pytest.mark.parametrize(("factor", "kept"), [(1 + 1e-9, True), (1 - 1e-9, False)])
@pytest.mark.parametrize(("pi", "advantage"), [(0.6, 1.0), (0.4, -1.0)])
def test_each_boundary_of_binary_kl(pi: float, advantage: float, factor: float, kept: bool) -> None:
    # KL(1/2 || 0.6) = KL(1/2 || 0.4) = -log(0.96) / 2... from log(1 / sqrt(4 · 0.6 · 0.4))
    delta = -0.5 * math.log(4 * 0.6 * 0.4) * factor
    loss = DppoLoss(DppoParams(kind="binary_kl", delta_low=delta, delta_high=delta))
    value, _, _ = one_token(loss, pi, 0.5, advantage)
    assert value == pytest.approx(-2 * pi * advantage if kept else 0.0, rel=1e-12)
    assert one_token(loss, pi, 0.5, -advantage)[0] != 0.0  # the other sign leads back


def test_the_anchor_determines_needs() -> None:
    assert DppoLoss.needs(DppoParams()) == {Need.ROLLOUT_LOG_PROBS}
    assert DppoLoss.needs(DppoParams(anchor="old")) == {Need.OLD_LOG_PROBS}


@pytest.mark.parametrize("wrong", [{"kind": "tv"}, {"delta_low": 0}, {"delta_high": -1}, {"anchor": "ref"}])
def test_rejects_parameters_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DppoParams(**wrong)
