"""Linear layers by the library that is fastest at their products, in both directions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skyrl_train.policy.cpu.product import few_sizes, followed, product, uses_onednn

BLOCK = 32
"""Rows of a block when a matrix is turned: their beginnings fit in the first cache."""


class FastLinear(nn.Linear):
    """The layer of torch, with ``product`` for its products: the same parameters, the same values up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """float [..., in] -> [..., out]."""
        # Not a question of the number of rows: what a rank differentiates must not depend on its batch, because
        # DeepSpeed reduces gradients in the order in which they come.
        if not uses_onednn(input, self.weight):
            return super().forward(input)
        rows = input.reshape(input.shape[:-1].numel(), self.in_features)
        apply: Any = _Linear.apply if torch.is_grad_enabled() else linear
        result: Tensor = apply(rows, self.weight, self.bias)
        return result.view(*input.shape[:-1], self.out_features)


def use_fast_linear(model: nn.Module) -> None:
    """In every place of torch's own class. Layers of a class derived from it stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


def linear(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    silu: bool = False,
    times: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """[n, i] · [o, i]ᵀ + [o], and what follows it: as ``product``, but oneDNN only where it knows so many rows."""
    if _is_usual(rows):
        return product(rows, weight, bias, silu=silu, times=times, plus=plus)
    return followed(nn.functional.linear(rows, weight, bias), silu=silu, times=times, plus=plus)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in], [out, in], [out] -> [n, out]."""
        wanted = ctx.needs_input_grad
        # The parameter itself: on ZeRO-3 it holds nothing between the passes, and is whole again in the second.
        ctx.save_for_backward(rows if wanted[1] else None, weight if wanted[0] else None)
        return linear(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """[n, out]."""
        rows, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_rows = linear(slope, weight.T, None) if wanted[0] else None
        of_weight = _over_rows(slope, rows) if wanted[1] else None
        return of_rows, of_weight, slope.sum(0) if wanted[2] else None


def _over_rows(a: Tensor, b: Tensor) -> Tensor:
    """[n, i]ᵀ · [n, j]. oneDNN is faster at this with the longer side second."""
    if not _is_usual(a):
        return a.T @ b
    return product(_columns(a), b.T) if a.shape[1] <= b.shape[1] else product(_columns(b), a.T).T


def _columns(rows: Tensor) -> Tensor:
    """[n, i]ᵀ, as oneDNN wants it. torch turns a matrix in one thread; of the two steps here it does each in all."""
    count, width = rows.shape
    if count % BLOCK:
        return rows.T
    blocks = rows.reshape(-1, BLOCK, width).transpose(1, 2).contiguous()
    return blocks.transpose(0, 1).reshape(width, count)


def _is_usual(rows: Tensor) -> bool:
    """Whether so many rows come often: oneDNN prepares itself for any other number, too, and keeps what it made."""
    return rows.shape[0] == few_sizes(rows.shape[0])
