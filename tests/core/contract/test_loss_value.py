"""The value of a micro-batch: both forms, shares that add up, and micro-batches without tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.metric import Metric, merge
from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
from skyrl_core.contract.reduction import count_batch, token_weights
from skyrl_core.errors import ConformanceError
from skyrl_core.parameters.loss_params import OpenLossParams

LENGTHS = torch.tensor([3, 1, 2])
MASK = torch.arange(3) < LENGTHS.unsqueeze(-1)


class TokenForm(PolicyLoss):
    def token_losses(self, batch: LossBatch) -> TokenLosses:
        values = -batch.advantages * (batch.log_probs - batch.old_log_probs).exp()
        return TokenLosses(
            values=values, terms={"twice": 2 * values}, metrics={"loss": Metric.mean(values, batch.mask)}
        )


class ScalarForm(PolicyLoss):
    """A mean over tokens that is NaN without a token."""

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset({Need.OLD_LOG_PROBS, Need.ENTROPY})

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        losses = -advantages * torch.exp(log_probs - old_log_probs) - kwargs["entropy"]
        return (losses * masks).sum() / masks.sum()


def evaluate(form: type[PolicyLoss], log_probs: Tensor, rows: Tensor, mask: Tensor = MASK):
    loss = form(form.Params())
    batch = LossBatch(
        log_probs=log_probs[rows],
        advantages=torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64).expand(3, 3)[rows],
        mask=mask[rows],
        inputs={Need.OLD_LOG_PROBS: torch.zeros(3, 3)[rows], Need.ENTROPY: torch.ones(3, 3)[rows]},
        needs=loss.needs(loss.params),
    )
    weights = token_weights(mask[rows], "token_mean", count_batch(mask), dtype=torch.float64)
    return evaluate_loss(loss, batch, weights, mask[rows].sum() / mask.sum().clamp(min=1))


def some_log_probs() -> Tensor:
    return torch.full((3, 3), -0.5, dtype=torch.float64).requires_grad_()


def test_token_form_by_hand() -> None:
    output = evaluate(TokenForm, some_log_probs(), torch.arange(3))
    ratio = torch.tensor(-0.5, dtype=torch.float64).exp().item()
    # advantages 1 on three tokens, -2 on one, 0.5 on two: their sum is 2, over six tokens
    assert output.total.item() == pytest.approx(-ratio * 2 / 6)
    assert output.terms["twice"].item() == pytest.approx(-ratio * 4 / 6)
    assert not output.terms["twice"].requires_grad
    assert output.metrics["loss"].result() == pytest.approx(-ratio * 2 / 6)


@pytest.mark.parametrize("form", [TokenForm, ScalarForm])
def test_micro_batches_add_up_to_the_full_batch(form: type[PolicyLoss]) -> None:
    log_probs = some_log_probs()
    whole = evaluate(form, log_probs, torch.arange(3)).total
    split = evaluate(form, log_probs, torch.tensor([2, 0])).total + evaluate(form, log_probs, torch.tensor([1])).total
    torch.testing.assert_close(split, whole)
    (expected,), (gradient,) = torch.autograd.grad(whole, log_probs), torch.autograd.grad(split, log_probs)
    torch.testing.assert_close(gradient, expected)


class DividesByItsTokens(PolicyLoss):
    """0 / 0 in every value, and in their gradients, without a token."""

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=-batch.advantages * (batch.log_probs - batch.old_log_probs) / batch.mask.sum())


@pytest.mark.parametrize("form", [TokenForm, ScalarForm, DividesByItsTokens])
def test_a_micro_batch_without_tokens_adds_nothing_and_stays_in_the_graph(form: type[PolicyLoss]) -> None:
    log_probs = torch.full((3, 3), float("nan"), requires_grad=True)
    output = evaluate(form, log_probs, torch.arange(3), torch.zeros(3, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(output.total, log_probs)
    assert output.total == 0
    assert not gradient.any()
    assert all(term == 0 for term in output.terms.values())


def test_an_empty_micro_batch_of_a_token_loss_still_names_its_metrics() -> None:
    output = evaluate(TokenForm, some_log_probs(), torch.arange(3), torch.zeros(3, 3, dtype=torch.bool))
    assert output.metrics.keys() == {"loss", "grad_norm/twice", "effective_tokens"}


@pytest.mark.parametrize("form", [TokenForm, ScalarForm])
def test_effective_tokens_are_exact_over_micro_batches(form: type[PolicyLoss]) -> None:
    log_probs = some_log_probs()
    parts = [
        evaluate(form, log_probs, rows).metrics["effective_tokens"]
        for rows in (torch.tensor([2, 0]), torch.tensor([1]))
    ]
    (gradient,) = torch.autograd.grad(evaluate(form, log_probs, torch.arange(3)).total, log_probs)
    assert merge(parts).total == (gradient != 0).sum()
    assert merge(parts).result() == pytest.approx(float((gradient != 0).sum()) / 6)


@pytest.mark.parametrize("part", ["values", "the term 'a_term'"])
def test_a_loss_that_returns_another_shape_on_some_batch_is_named(part):
    class Ragged(PolicyLoss):
        name = "ragged"

        def token_losses(self, batch):
            short = batch.log_probs[:, :1]
            if part == "values":
                return TokenLosses(values=short)
            return TokenLosses(values=batch.log_probs, terms={"a_term": short})

    mask = torch.ones(2, 3, dtype=torch.bool)
    zeros = torch.zeros(2, 3, requires_grad=True)
    batch = LossBatch(log_probs=zeros, advantages=torch.ones(2, 3), mask=mask)
    with pytest.raises(ConformanceError, match=rf"the loss ragged returned {part} of shape \[2, 1\] for .* \[2, 3\]"):
        evaluate_loss(Ragged(OpenLossParams()), batch, torch.ones(2, 3), 1.0)
