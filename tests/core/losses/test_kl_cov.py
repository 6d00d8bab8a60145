"""kl_cov: a penalty on the tokens of highest covariance."""

import math

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.conformance.batches import example_batch
from skyrl_core.conformance.trial import run
from skyrl_core.losses.kl_cov import KlCovLoss
from skyrl_core.losses.params import KlCovParams


@pytest.mark.parametrize("fraction", [2e-4, 0.3, 1.0])
@pytest.mark.parametrize("name", ["ragged", "extreme"])
def test_loss_and_gradient_match_the_paper(request, name: str, fraction: float) -> None:
    loss = KlCovLoss(KlCovParams(kl_cov_frac=fraction, ppo_kl_coef=0.7))
    batch = request.getfixturevalue(name)(loss)
    where = [tuple(index) for index in batch.mask.nonzero().tolist()]
    p, a, o = (
        {at: tensor[at].item() for at in where} for tensor in (batch.log_probs, batch.advantages, batch.old_log_probs)
    )
    mean_p, mean_a = math.fsum(p.values()) / len(where), math.fsum(a.values()) / len(where)
    ranked = sorted(where, key=lambda at: -(p[at] - mean_p) * (a[at] - mean_a))
    penalised = set(ranked[: max(math.floor(fraction * len(where)), 1)])
    batch.prepared = loss.prepare(batch).tensors
    output = loss.token_losses(batch)
    (gradients,) = torch.autograd.grad(output.values[batch.mask].sum(), batch.log_probs)
    for at in where:
        d = p[at] - o[at]
        value = gradient = -math.exp(d) * a[at]
        if at in penalised:
            value += 0.7 * abs(d)
            gradient += 0.7 * ((d > 0) - (d < 0))
        assert output.values[at].item() == pytest.approx(value, rel=1e-10, abs=1e-10)
        assert gradients[at].item() == pytest.approx(gradient, rel=1e-10, abs=1e-10)
    assert output.metrics["penalised_fraction"].result() == pytest.approx(len(penalised) / len(where))


def test_by_hand_the_penalty_is_for_the_highest_covariance(by_ratio) -> None:
    # log-probs -1, -1, -1 + log 2 with A = 0, 0, 3: the third is above both means
    loss = KlCovLoss(KlCovParams())
    batch = by_ratio(loss, [1.0, 1.0, 2.0], [0.0, 0.0, 3.0])
    batch.prepared = loss.prepare(batch).tensors
    assert batch.prepared["penalised"].tolist() == [[False, False, True]]
    output = loss.token_losses(batch)
    (gradient,) = torch.autograd.grad(output.values.sum(), batch.log_probs)
    assert output.values.tolist() == [pytest.approx([0.0, 0.0, -6.0 + math.log(2)], abs=1e-12)]
    assert gradient.tolist() == [pytest.approx([0.0, 0.0, -5.0], abs=1e-12)]


def test_on_policy_the_penalty_has_no_gradient(by_ratio) -> None:
    loss = KlCovLoss(KlCovParams(kl_cov_frac=1.0, ppo_kl_coef=100.0))
    batch = by_ratio(loss, [1.0, 1.0], [2.0, -1.0])
    batch.prepared = loss.prepare(batch).tensors
    (gradient,) = torch.autograd.grad(loss.token_losses(batch).values.sum(), batch.log_probs)
    assert gradient.tolist() == [[-2.0, 1.0]]


def test_micro_batches_add_up_to_the_minibatch() -> None:
    loss, batch = KlCovLoss(KlCovParams(kl_cov_frac=0.3)), example_batch()
    whole = run(loss, batch)
    for parts in (torch.arange(6).split(1), torch.arange(6).split([1, 2, 3])):
        assert whole.difference(run(loss, batch, parts)) is None


@pytest.mark.parametrize("wrong", [{"kl_cov_frac": 0}, {"kl_cov_frac": 1.1}, {"ppo_kl_coef": 0}])
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        KlCovParams(**wrong)
