"""Detached values keep their recorded value; differentiable ones are recomputed."""

import torch
from torch import Tensor

from skyrl_core.conformance.stop_gradients import StopGradients


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def record_and_replay(function, first: Tensor, second: Tensor) -> tuple[float, float]:
    """Evaluate the function at one point, then at another with every recorded value held constant."""
    record = StopGradients()
    with record:
        one = function(first.requires_grad_())
    with StopGradients(record.record):
        two = function(second.requires_grad_())
    return float(one), float(two)


def at(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def test_a_detached_factor_keeps_its_value() -> None:
    # 2 sg(x) x at 3, then at 5 with sg(x) = 3
    assert record_and_replay(lambda x: (2 * x.detach() * x).sum(), at(3.0), at(5.0)) == (18.0, 30.0)
    assert record_and_replay(lambda x: (2 * x.data * x).sum(), at(3.0), at(5.0)) == (18.0, 30.0)


def test_a_factor_computed_under_no_grad_keeps_its_value() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = (x + 1).clamp(max=10) * 2
        return (torch.stack([weight, weight]).sum() * x).sum()

    # 2 * 2 (3 + 1) = 16, times x
    assert record_and_replay(function, at(3.0), at(5.0)) == (48.0, 80.0)


def test_a_number_and_a_branch_are_replayed() -> None:
    def function(x: Tensor) -> Tensor:
        return (x * x.detach().item() if x.sum() < 4 else x * 100).sum()

    assert record_and_replay(function, at(3.0), at(5.0)) == (9.0, 15.0)


def test_a_mask_from_a_comparison_is_replayed() -> None:
    assert record_and_replay(lambda x: torch.where(x > 4, x * 100, x).sum(), at(3.0), at(5.0)) == (3.0, 5.0)


def test_the_forward_of_an_autograd_function_is_recomputed() -> None:
    assert record_and_replay(lambda x: Square.apply(x).sum(), at(3.0), at(5.0)) == (9.0, 25.0)


def test_a_value_that_is_not_detached_is_recomputed() -> None:
    assert record_and_replay(lambda x: (x.exp().log() + x).sum(), at(3.0), at(5.0)) == (6.0, 10.0)
