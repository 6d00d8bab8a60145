"""Masked sums and means: masked values never count, not even NaN."""

import pytest
import torch
from torch import Tensor

from skyrl_core.maths.masked import masked_mean, masked_sum, sequence_mean

NAN = float("nan")
VALUES = torch.tensor([[1.0, 2.0, NAN], [NAN, 5.0, float("inf")]])
MASK = torch.tensor([[True, True, False], [False, True, False]])


def test_sum_and_mean_by_hand() -> None:
    assert masked_sum(VALUES, MASK) == 8.0
    assert masked_mean(VALUES, MASK) == pytest.approx(8 / 3)


def test_sequence_mean_divides_by_the_length_of_each_sequence() -> None:
    assert sequence_mean(VALUES, MASK).tolist() == [1.5, 5.0]


def test_masked_values_get_no_gradient_and_valid_ones_a_finite_one() -> None:
    for function, expected in [
        (masked_sum, [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
        (masked_mean, [[1 / 3, 1 / 3, 0.0], [0.0, 1 / 3, 0.0]]),
        (lambda v, m: sequence_mean(v, m).sum(), [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]),
    ]:
        values = VALUES.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(values, MASK), values)
        torch.testing.assert_close(gradient, torch.tensor(expected))


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
def test_nothing_unmasked_gives_zero_with_zero_gradient(shape: tuple[int, int]) -> None:
    values = torch.full(shape, NAN, requires_grad=True)
    mask = torch.zeros(shape, dtype=torch.bool)
    results: list[Tensor] = [masked_sum(values, mask), masked_mean(values, mask), sequence_mean(values, mask).sum()]
    for result in results:
        assert result == 0.0
        (gradient,) = torch.autograd.grad(result, values)
        assert not gradient.any()
