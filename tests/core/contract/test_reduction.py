"""Reductions: the weight of every token by hand, and sums that do not depend on how a batch is split."""

import pytest
import torch
from torch import Tensor

from skyrl_core.contract.reduction import (
    LOSS_REDUCTIONS,
    BatchCounts,
    LossReduction,
    count_batch,
    token_weights,
    weighted_sum,
)

F64 = torch.float64
# Lengths 3, 1, 0, 2, the first with a hole: 6 tokens, 3 sequences that count, 2 groups with 4 and 2 tokens.
MASK = torch.tensor(
    [
        [True, False, True, True],
        [True, False, False, False],
        [False, False, False, False],
        [True, True, False, False],
    ]
)
GROUPS = torch.tensor([0, 0, 1, 1])


def weights_of(reduction: LossReduction, *, max_length: int | None = 4) -> Tensor:
    return token_weights(MASK, reduction, count_batch(MASK, GROUPS), groups=GROUPS, max_length=max_length, dtype=F64)


@pytest.mark.parametrize(
    ("reduction", "of_each_row"),
    [
        ("token_mean", [1 / 6, 1 / 6, 0, 1 / 6]),
        ("sequence_mean", [1 / 9, 1 / 3, 0, 1 / 6]),
        ("sequence_sum", [1 / 3, 1 / 3, 0, 1 / 3]),
        ("sequence_sum_norm", [1 / 12, 1 / 12, 0, 1 / 12]),
        ("prompt_mean", [1 / 8, 1 / 8, 0, 1 / 4]),
    ],
)
def test_weights_by_hand(reduction: LossReduction, of_each_row: list[float]) -> None:
    expected = torch.where(MASK, torch.tensor(of_each_row, dtype=F64).unsqueeze(-1), 0.0)
    torch.testing.assert_close(weights_of(reduction), expected, atol=0, rtol=1e-15)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "prompt_mean"])
def test_the_weights_of_a_mean_sum_to_one(reduction: LossReduction) -> None:
    assert weights_of(reduction).sum().item() == pytest.approx(1, abs=1e-15)


def test_every_reduction_is_tested_here() -> None:
    assert set(LOSS_REDUCTIONS) == {"token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm", "prompt_mean"}


@pytest.mark.parametrize("reduction", LOSS_REDUCTIONS)
@pytest.mark.parametrize("parts", [[1, 1, 1, 1, 1, 1, 1, 1], [3, 5], [2, 2, 2, 2], [7, 1]])
def test_micro_batches_add_up_to_the_batch_with_the_same_gradient(reduction: LossReduction, parts: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(8, 9, generator=generator, dtype=F64).requires_grad_()
    mask = torch.rand(8, 9, generator=generator) < torch.tensor([1.0, 0.9, 0.1, 0.5, 0.0, 0.6, 1.0, 0.3]).unsqueeze(-1)
    groups = torch.tensor([0, 1, 0, 2, 2, 1, 4, 0])  # group 3 is empty
    pieces = list(torch.randperm(8, generator=generator).split(parts))

    def total(counts: BatchCounts, rows: Tensor) -> Tensor:
        weights = token_weights(mask[rows], reduction, counts, groups=groups[rows], max_length=12, dtype=F64)
        return weighted_sum(values[rows], weights, mask[rows])

    partial = [count_batch(mask[rows], groups[rows], num_groups=5) for rows in pieces]
    summed = BatchCounts(
        tokens=sum((c.tokens for c in partial), torch.zeros((), dtype=F64)),
        sequences=sum((c.sequences for c in partial), torch.zeros((), dtype=F64)),
        group_tokens=sum((c.group_tokens for c in partial), torch.zeros(5, dtype=F64)),
    )
    whole = total(count_batch(mask, groups), torch.arange(8))
    split = sum((total(summed, rows) for rows in pieces), torch.zeros((), dtype=F64))
    torch.testing.assert_close(split, whole, atol=1e-12, rtol=0)
    (expected,), (gradient,) = torch.autograd.grad(whole, values), torch.autograd.grad(split, values)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("reduction", LOSS_REDUCTIONS)
def test_a_batch_without_tokens_has_no_weight_and_no_nan(reduction: LossReduction) -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    groups = torch.tensor([0, 1])
    weights = token_weights(mask, reduction, count_batch(mask, groups), groups=groups, max_length=3)
    assert weights.tolist() == [[0.0] * 3] * 2


def test_masked_values_do_not_reach_the_sum_or_the_gradient_even_as_nan() -> None:
    values = torch.where(MASK, 2.0, torch.nan).to(F64).requires_grad_()
    total = weighted_sum(values, weights_of("token_mean"), MASK)
    (gradient,) = torch.autograd.grad(total, values)
    assert total.item() == pytest.approx(2.0, abs=1e-12)
    torch.testing.assert_close(gradient, weights_of("token_mean"))


def test_a_reduction_without_what_it_divides_by_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="set max_length"):
        weights_of("sequence_sum_norm", max_length=None)
    with pytest.raises(ValueError, match="pass groups"):
        token_weights(MASK, "prompt_mean", count_batch(MASK))


def test_an_unknown_reduction_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mean'; known: token_mean, sequence_mean"):
        token_weights(MASK, "mean", count_batch(MASK))
