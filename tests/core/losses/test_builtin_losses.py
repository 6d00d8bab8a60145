"""Properties that every built-in loss must have."""

import tomllib
from pathlib import Path

import pytest
import torch

from skyrl_core.conformance import check_policy_loss
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.registry.loss_registry import load_policy_loss

PROJECT = tomllib.loads((Path(__file__).parents[3] / "core/pyproject.toml").read_text())["project"]
NAMES = list(PROJECT["entry-points"]["skyrl.policy_losses"])
VARIANTS = [
    ("dual_clip", {"clip_ratio_c": None}),
    ("dual_clip", {"clip_ratio_c": None, "clip_low": 1.0, "clip_high": 10.0}),
    ("cispo", {"anchor": "rollout", "clip_low": 0.2, "clip_high": 0.2}),
    ("gspo", {"level": "sequence"}),
    ("importance_sampling", {"anchor": "old"}),
    ("clip_cov", {"clip_cov_ratio": 0.4, "clip_cov_lb": -1.0, "clip_cov_ub": 1.0}),
    ("kl_cov", {"kl_cov_frac": 0.5}),
    ("dppo", {"kind": "binary_kl", "anchor": "old"}),
    ("icepop", {"ratio_low": 0.8, "ratio_high": 1.2}),
    ("cpgd", {"drift_coef": 0.5}),
    ("decoupled_ppo", {"behave_cap": None}),
]
BUILT_IN = [load_policy_loss(name, params) for name, params in [*((name, {}) for name in NAMES), *VARIANTS]]
every_loss = pytest.mark.parametrize("loss", BUILT_IN, ids=lambda loss: f"{loss.name}-{loss.params}")


@every_loss
@pytest.mark.parametrize("log_ratio", [-1000.0, -50.0, 50.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_loss_and_gradient_are_finite_at_any_log_ratio(loss: PolicyLoss, log_ratio: float, advantage: float) -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    anchor = log_probs.detach() - torch.tensor([[log_ratio, 0.0]])
    total = loss.compute_loss(
        log_probs,
        anchor,
        torch.full((1, 2), advantage),
        torch.ones(1, 2, dtype=torch.bool),
        rollout_log_probs=anchor,
    )
    (gradient,) = torch.autograd.grad(total, log_probs)
    assert total.isfinite()
    assert gradient.isfinite().all()


# clip_cov takes the gradient from some tokens in every step; its own tests say from which.
@pytest.mark.parametrize("loss", [loss for loss in BUILT_IN if loss.name != "clip_cov"], ids=lambda loss: loss.name)
def test_one_step_on_policy_has_the_gradient_of_reinforce(loss: PolicyLoss) -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.5, 1.5], [-0.7, -0.7]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    old = log_probs.detach()
    total = loss.compute_loss(log_probs, old, advantages, mask, loss_reduction="token_mean", rollout_log_probs=old)
    (gradient,) = torch.autograd.grad(total, log_probs)
    weights = torch.ones_like(advantages) if loss.ignores_advantages else advantages
    torch.testing.assert_close(gradient, -weights / 4, atol=1e-12, rtol=0)


@every_loss
def test_nan_in_masked_slots_reaches_neither_loss_nor_gradient(loss: PolicyLoss, ragged) -> None:
    batch = ragged(loss)
    batch.prepared = loss.prepare(batch).tensors
    output = loss.token_losses(batch)
    (gradient,) = torch.autograd.grad(output.values[batch.mask].sum(), batch.log_probs)
    assert output.values[batch.mask].isfinite().all()
    assert gradient.isfinite().all()
    assert all(torch.isfinite(torch.tensor(metric.result())) for metric in output.metrics.values())


@every_loss
def test_every_parameter_is_described_and_every_loss_names_its_source(loss: PolicyLoss) -> None:
    assert all(field.description for field in loss.Params.model_fields.values())
    assert "arXiv" in loss.reference or "https://" in loss.reference


@every_loss
def test_keeps_every_rule_of_the_contract_with_nothing_to_note(loss: PolicyLoss) -> None:
    report = check_policy_loss(loss)
    report.raise_for_failures()
    assert [result.notes for result in report.results if result.notes] == []


@every_loss
def test_the_dtype_of_the_loss_is_that_of_the_log_probs(loss: PolicyLoss, ragged) -> None:
    batch = ragged(loss)
    batch.prepared = loss.prepare(batch).tensors
    assert loss.token_losses(batch).values.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_its_schema_loads_without_its_class(name: str) -> None:
    module, _, attribute = PROJECT["entry-points"]["skyrl.policy_loss_params"][name].partition(":")
    assert module in ("skyrl_core.losses.params", "skyrl_core.losses.sum_params")
    assert attribute == type(load_policy_loss(name)).Params.__name__
