"""clip_cov: the clip, and no gradient for a few high-covariance tokens."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.conformance.batches import example_batch
from skyrl_core.conformance.trial import loss_batch, run
from skyrl_core.losses.clip_cov import ClipCovLoss
from skyrl_core.losses.params import ClipCovParams


def loss_of(**params) -> ClipCovLoss:
    return ClipCovLoss(ClipCovParams(**params))


def oracle_candidates(batch, params: ClipCovParams) -> set[tuple[int, int]]:
    """From the definition, in plain Python."""
    where = [tuple(index) for index in batch.mask.nonzero().tolist()]
    p, a, o = (
        {at: tensor[at].item() for at in where} for tensor in (batch.log_probs, batch.advantages, batch.old_log_probs)
    )
    mean_p, mean_a = math.fsum(p.values()) / len(where), math.fsum(a.values()) / len(where)
    chosen = set()
    for at in where:
        ratio = math.exp(p[at] - o[at])
        clipped = (a[at] > 0 and ratio > 1 + params.clip_high) or (a[at] < 0 and ratio < 1 - params.clip_low)
        if not clipped and params.clip_cov_lb < (p[at] - mean_p) * (a[at] - mean_a) < params.clip_cov_ub:
            chosen.add(at)
    return chosen


@pytest.mark.parametrize("ratio_of_tokens", [1.0, 0.1])
@pytest.mark.parametrize(("name", "bound"), [("ragged", 0.02), ("extreme", -5.0)])
def test_loss_and_gradient_match_the_paper(request, name: str, bound: float, ratio_of_tokens: float) -> None:
    loss = loss_of(clip_cov_ratio=ratio_of_tokens, clip_cov_lb=bound, clip_cov_ub=3.0)
    batch = request.getfixturevalue(name)(loss)
    among = oracle_candidates(batch, loss.params)
    assert 2 < len(among) < batch.mask.sum()
    batch.prepared = loss.prepare(batch).tensors
    dropped = {tuple(index) for index in batch.prepared["dropped"].nonzero().tolist()}
    assert dropped <= among
    assert len(dropped) == min(len(among), max(math.floor(ratio_of_tokens * int(batch.mask.sum())), 1))
    values = loss.token_losses(batch).values
    (gradients,) = torch.autograd.grad(values[batch.mask].sum(), batch.log_probs)
    for at in batch.mask.nonzero().tolist():
        row, column = at
        a = batch.advantages[row, column].item()
        ratio = math.exp((batch.log_probs[row, column] - batch.old_log_probs[row, column]).item())
        objective = 0.0 if (row, column) in dropped else min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        assert values[row, column].item() == pytest.approx(-objective, rel=1e-10, abs=1e-10)
        expected = -ratio * a if objective == ratio * a else 0.0
        assert gradients[row, column].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    ("covariance", "chosen"), [(0.5 - 1e-9, False), (0.5 + 1e-9, True), (0.75 - 1e-9, True), (0.75 + 1e-9, False)]
)
def test_the_bounds_of_the_covariance_are_those_given(by_ratio, covariance: float, chosen: bool) -> None:
    # two tokens ±x from their mean log-prob with advantages ±1: both have the covariance x, and none is clipped
    loss = loss_of(clip_cov_ratio=1.0, clip_cov_lb=0.5, clip_cov_ub=0.75, clip_low=1.0, clip_high=1e6)
    batch = by_ratio(loss, [math.exp(covariance), math.exp(-covariance)], [1.0, -1.0])
    assert loss.prepare(batch).tensors["dropped"].tolist() == [[chosen, chosen]]


def test_the_choice_depends_on_the_minibatch_and_the_step_but_not_on_the_order() -> None:
    loss = loss_of(clip_cov_ratio=0.1, clip_cov_lb=-10.0, clip_cov_ub=10.0)
    batch = example_batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    def drawn(rows: torch.Tensor, step: int = 0) -> torch.Tensor:
        whole = loss_batch(loss, batch.take(rows, 8))
        whole.step = step
        return loss.prepare(whole).tensors["dropped"]

    first = drawn(torch.arange(6))
    assert first.sum() == 2  # a tenth of the tokens
    assert torch.equal(drawn(order), first[order])
    assert any(not torch.equal(drawn(torch.arange(6), step), first) for step in (1, 2, 3))


def test_micro_batches_add_up_to_the_minibatch() -> None:
    loss = loss_of(clip_cov_ratio=0.5, clip_cov_lb=-1.0, clip_cov_ub=1.0)
    batch = example_batch()
    whole = run(loss, batch)
    assert whole.difference(run(loss_of(), batch)) is not None  # tokens are dropped
    for parts in (torch.arange(6).split(1), torch.arange(6).split([1, 2, 3])):
        assert whole.difference(run(loss, batch, parts)) is None


def test_without_a_candidate_it_is_ppo() -> None:
    batch = example_batch()
    zero = replace(batch, advantages=torch.zeros_like(batch.advantages))
    loss = loss_of()
    assert not loss.prepare(loss_batch(loss, zero)).tensors["dropped"].any()


def test_kept_fraction_excludes_the_chosen_tokens(by_ratio) -> None:
    loss = loss_of(clip_cov_ratio=0.25, clip_cov_lb=-1.0, clip_cov_ub=1.0)
    batch = by_ratio(loss, [1.0, 1.1, 0.9, 1.05], [1.0, -1.0, 1.0, -1.0])
    batch.prepared = loss.prepare(batch).tensors
    assert loss.token_losses(batch).metrics["kept_fraction"].result() == 0.75


@pytest.mark.parametrize(
    "wrong", [{"clip_low": 1.5}, {"clip_high": 0}, {"clip_cov_ratio": 0}, {"clip_cov_lb": 5.0, "clip_cov_ub": 5.0}]
)
def test_rejects_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ClipCovParams(**wrong)
