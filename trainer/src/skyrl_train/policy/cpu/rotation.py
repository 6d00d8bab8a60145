"""Rotary positions of queries and keys in a third of the operations that autograd takes for them, on a CPU."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"
"""The function that the modules of transformers call by this name."""


@dataclass(frozen=True)
class FastRotation:
    """In the place of a function of transformers: the same values up to rounding, in float32 on a CPU."""

    original: Callable[..., tuple[Tensor, Tensor]]

    def __call__(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        """float [B, H, T, D] and [B, K, T, D], [B, T, D] twice -> queries and keys."""
        if others or named or not _is_usual(q, k, cos, sin):
            return self.original(q, k, cos, sin, *others, **named)
        cos, sin = cos[:, None], sin[:, None]
        return _rotated(q, cos, sin), _rotated(k, cos, sin)


def use_fast_rotation(model: nn.Module) -> None:
    """In the modules of transformers that the model is made of, if their function computes this: it is tried."""
    for module in {sys.modules[type(part).__module__] for part in model.modules()}:
        original = getattr(module, NAME, None)
        if original is not None and not isinstance(original, FastRotation) and _agrees(original):
            setattr(module, NAME, FastRotation(original))


def _is_usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    # Some models turn a part of each head alone: the cosines are of that part then.
    whole = cos.ndim == 3 and cos.shape == sin.shape and cos.shape[1:] == q.shape[2:] == k.shape[2:]
    return whole and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (q, k, cos, sin))


def _agrees(original: Callable[..., tuple[Tensor, Tensor]]) -> bool:
    numbers = torch.linspace(-1, 1, 2 * 3 * 8)
    q, k = numbers.view(1, 2, 3, 8), numbers[:24].view(1, 1, 3, 8)
    cos, sin = numbers[8:32].view(1, 3, 8), numbers[20:44].view(1, 3, 8)
    try:
        expected = original(q, k, cos, sin)
        found = FastRotation(original)(q, k, cos, sin)
        return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, expected, strict=True))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # it takes, or returns, other things
        return False


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    apply: Any = _Rotation.apply  # torch leaves it untyped
    result: Tensor = apply(x, cos, sin)
    return result


class _Rotation(torch.autograd.Function):
    """y = x ⊙ cos + (-x₂, x₁) ⊙ sin, where x = (x₁, x₂) are halves (arXiv 2104.09864, equation 34)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, H, T, D], [B, 1, T, D] twice."""
        ctx.save_for_backward(cos, sin)
        y, half = x * cos, x.shape[-1] // 2
        y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        y[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """The transposed of it."""
        cos, sin = ctx.saved_tensors
        of_x, half = slope * cos, slope.shape[-1] // 2
        of_x[..., :half].addcmul_(slope[..., half:], sin[..., half:])
        of_x[..., half:].addcmul_(slope[..., :half], sin[..., :half], value=-1)
        return of_x, None, None
