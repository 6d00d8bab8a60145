"""Linear layers by the library that is fastest at their products, in both directions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skyrl_train.policy.product import few_sizes, product, uses_onednn


class FastLinear(nn.Linear):
    """The layer of torch, with ``product`` for its products: the same parameters, the same values up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """float [..., in] -> [..., out]."""
        count = input.shape[:-1].numel()
        # Any number of rows would be one more that oneDNN prepares itself for, and keeps.
        if count != few_sizes(count) or not uses_onednn(input, self.weight):
            return super().forward(input)
        rows = input.reshape(count, self.in_features)
        apply: Any = _Linear.apply if torch.is_grad_enabled() else product
        result: Tensor = apply(rows, self.weight, self.bias)
        return result.view(*input.shape[:-1], self.out_features)


def use_fast_linear(model: nn.Module) -> None:
    """In every place of torch's own class. Layers of a class derived from it stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in], [out, in], [out] -> [n, out]."""
        # The parameter itself: on ZeRO-3 it holds nothing between the passes, and is whole again in the second.
        ctx.save_for_backward(rows, weight)
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """[n, out]."""
        rows, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_rows = product(slope, weight.T) if wanted[0] else None
        of_weight = _over_tokens(slope, rows) if wanted[1] else None
        return of_rows, of_weight, slope.sum(0) if wanted[2] else None


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """[n, i] and [n, j] -> [i, j]. oneDNN is faster at this with the longer side second."""
    return product(a.T, b.T) if a.shape[1] <= b.shape[1] else product(b.T, a.T).T
