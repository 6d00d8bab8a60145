"""Passes over a tile of logits: running sums in the forward pass, the gradient in the backward pass.

Shapes: a tile [n, v] holds the logits of n tokens for v vocabulary entries, in the type of the output embedding and
before the temperature; all vectors are [n], float32 (float64 for a float64 tile). ``scale`` is 1 / temperature.
There are two implementations: torch in this file, for every device, and Triton kernels in ``triton_kernels`` for CUDA.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Sums(NamedTuple):
    """Running sums over each token's logits in the tiles so far, updated in place by ``TilePasses.add``."""

    largest: Tensor  # m, the largest logit
    total: Tensor  # Σ exp(logit - m)
    weighted: Tensor | None  # Σ exp(logit - m) (logit - m); None if the entropy is not requested
    chosen: Tensor  # the logit of the token itself, 0 until its tile is seen

    @classmethod
    def initial(cls, tokens: int, like: Tensor, with_entropy: bool) -> "Sums":
        """The sums before the first tile, for this number of tokens, on the device of ``like``."""
        zeros = torch.zeros(tokens, dtype=accumulator(like), device=like.device)
        return cls(
            torch.full_like(zeros, -torch.inf), zeros, zeros.clone() if with_entropy else None, torch.zeros_like(zeros)
        )

    def of(self, chunk: slice) -> "Sums":
        """Views of the sums of some tokens."""
        weighted = None if self.weighted is None else self.weighted[chunk]
        return Sums(self.largest[chunk], self.total[chunk], weighted, self.chosen[chunk])

    def log_norm(self) -> Tensor:
        """log Σ exp(logit)."""
        return self.largest + self.total.log()

    def entropy(self) -> Tensor | None:
        """-Σ p log p, nats."""
        return None if self.weighted is None else self.total.log() - self.weighted / self.total


class GradientInputs(NamedTuple):
    """The vectors from which the gradient of a tile is computed."""

    log_norm: Tensor
    entropy: Tensor | None  # None if not requested
    log_prob_grad: Tensor  # gradient of the loss with respect to each token's log-prob
    entropy_grad: Tensor | None

    def of(self, chunk: slice) -> "GradientInputs":
        """Views of the vectors of some tokens."""
        return GradientInputs(*(None if vector is None else vector[chunk] for vector in self))  # type: ignore[arg-type]  # by name


class TilePasses(Protocol):
    """The two passes. ``columns`` int64 [n]: each token's column, outside [0, v) if in another tile."""

    def add(self, sums: Sums, logits: Tensor, columns: Tensor, scale: float) -> None:
        """Add the tile to the sums, without changing the tile."""

    def gradient(self, logits: Tensor, columns: Tensor, inputs: GradientInputs, scale: float) -> Tensor:
        """The gradient of the tile's logits before the temperature, in their type; may overwrite them."""


class TorchPasses:
    """Both passes with torch operations."""

    def add(self, sums: Sums, logits: Tensor, columns: Tensor, scale: float) -> None:
        """See ``TilePasses``."""
        inside, columns = _columns_inside(columns, logits.shape[1])
        chosen = logits.gather(-1, columns[:, None]).squeeze(-1) * inside
        sums.chosen.add_(chosen, alpha=scale)
        largest = torch.maximum(sums.largest, logits.amax(-1).to(sums.largest.dtype) * scale)
        shift = (sums.largest - largest).clamp(min=torch.finfo(largest.dtype).min)  # finite before the first tile too
        rescale = shift.exp()
        shifted = torch.add(-largest[:, None], logits, alpha=scale)
        if sums.weighted is None:
            exponentials = shifted.exp_()
        else:
            exponentials = shifted.exp()
            sums.weighted.addcmul_(sums.total, shift).mul_(rescale)
            sums.weighted.add_(torch.linalg.vecdot(exponentials, shifted))
        sums.total.mul_(rescale).add_(exponentials.sum(-1))
        sums.largest.copy_(largest)

    def gradient(self, logits: Tensor, columns: Tensor, inputs: GradientInputs, scale: float) -> Tensor:
        """See ``TilePasses``."""
        # d log p_y / d logit_v = [v = y] - p_v;  d entropy / d logit_v = -p_v (log p_v + entropy).
        log_p = torch.add(-inputs.log_norm[:, None], logits, alpha=scale)
        log_prob_grad = inputs.log_prob_grad * scale
        factor = -log_prob_grad[:, None]
        if inputs.entropy_grad is not None and inputs.entropy is not None:
            entropy_grad = (inputs.entropy_grad * -scale)[:, None]
            factor = torch.addcmul(factor + entropy_grad * inputs.entropy[:, None], log_p, entropy_grad)
        gradient = log_p.exp_().mul_(factor)
        inside, columns = _columns_inside(columns, logits.shape[1])
        gradient.scatter_add_(-1, columns[:, None], (log_prob_grad * inside)[:, None])
        return gradient.to(logits.dtype)


def accumulator(tensor: Tensor) -> torch.dtype:
    """The dtype for sums over the numbers of this tensor."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _columns_inside(columns: Tensor, width: int) -> tuple[Tensor, Tensor]:
    # Rows outside get an arbitrary column instead of being dropped: counting the others would synchronise with the GPU.
    return (columns >= 0) & (columns < width), columns.clamp(0, width - 1)
