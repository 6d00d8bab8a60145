"""Passes over a tile of logits: the running sums of the forward pass, and the gradient of the backward pass.

Shapes: a tile [n, v] has the logits of n tokens and v entries of the vocabulary, in the type of the output embedding
and before the temperature; all vectors are [n], float32 (float64 for a float64 tile). ``scale`` is 1 / temperature.
There are two implementations: torch here, for every device, and Triton kernels in ``triton_kernels`` for CUDA.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Sums(NamedTuple):
    """What is known of each token's logits after the tiles seen so far; overwritten by ``TilePasses.add``."""

    largest: Tensor  # m, the largest logit
    total: Tensor  # Σ exp(logit - m)
    weighted: Tensor | None  # Σ exp(logit - m) (logit - m); None where nobody asks for the entropy
    chosen: Tensor  # the logit of the token itself, 0 until its tile is seen

    @classmethod
    def before_the_first_tile(cls, tokens: int, like: Tensor, with_entropy: bool) -> "Sums":
        """For so many tokens, on the device of ``like``."""
        zeros = torch.zeros(tokens, dtype=accumulator(like), device=like.device)
        return cls(
            torch.full_like(zeros, -torch.inf), zeros, zeros.clone() if with_entropy else None, torch.zeros_like(zeros)
        )

    def of(self, chunk: slice) -> "Sums":
        """Those of some tokens: views."""
        weighted = None if self.weighted is None else self.weighted[chunk]
        return Sums(self.largest[chunk], self.total[chunk], weighted, self.chosen[chunk])

    def log_norm(self) -> Tensor:
        """log Σ exp(logit)."""
        return self.largest + self.total.log()

    def entropy(self) -> Tensor | None:
        """-Σ p log p, nats."""
        return None if self.weighted is None else self.total.log() - self.weighted / self.total


class Slopes(NamedTuple):
    """What the gradient of a tile is made from."""

    log_norm: Tensor
    entropy: Tensor | None  # None where nobody asked for it
    of_log_prob: Tensor  # of the loss, towards each token's log-prob
    of_entropy: Tensor | None

    def of(self, chunk: slice) -> "Slopes":
        """Those of some tokens: views."""
        return Slopes(*(None if vector is None else vector[chunk] for vector in self))  # type: ignore[arg-type]  # by name


class TilePasses(Protocol):
    """The two passes. ``columns`` int64 [n] is each token's place in the tile; outside of [0, v) where it has none."""

    def add(self, sums: Sums, logits: Tensor, columns: Tensor, scale: float) -> None:
        """Add the tile to the sums; the tile stays what it is."""

    def gradient(self, logits: Tensor, columns: Tensor, slopes: Slopes, scale: float) -> Tensor:
        """Of the loss towards the tile's logits before the temperature, [n, v], in their type; may overwrite them."""


class TorchPasses:
    """Both passes with operations of torch."""

    def add(self, sums: Sums, logits: Tensor, columns: Tensor, scale: float) -> None:
        """See ``TilePasses``."""
        inside, columns = _within(columns, logits.shape[1])
        own = logits.gather(-1, columns[:, None]).squeeze(-1) * inside
        sums.chosen.add_(own, alpha=scale)
        largest = torch.maximum(sums.largest, logits.amax(-1).to(sums.largest.dtype) * scale)
        fallen = (sums.largest - largest).clamp(min=torch.finfo(largest.dtype).min)  # -inf before the first tile
        rescale = fallen.exp()
        shifted = torch.add(-largest[:, None], logits, alpha=scale)
        if sums.weighted is None:
            exponentials = shifted.exp_()
        else:
            exponentials = shifted.exp()
            sums.weighted.addcmul_(sums.total, fallen).mul_(rescale)
            sums.weighted.add_(torch.linalg.vecdot(exponentials, shifted))
        sums.total.mul_(rescale).add_(exponentials.sum(-1))
        sums.largest.copy_(largest)

    def gradient(self, logits: Tensor, columns: Tensor, slopes: Slopes, scale: float) -> Tensor:
        """See ``TilePasses``."""
        # d log p_y / d logit_v = [v = y] - p_v;  d entropy / d logit_v = -p_v (log p_v + entropy).
        log_p = torch.add(-slopes.log_norm[:, None], logits, alpha=scale)
        towards = slopes.of_log_prob * scale
        slope = -towards[:, None]
        if slopes.of_entropy is not None and slopes.entropy is not None:
            of_entropy = (slopes.of_entropy * -scale)[:, None]
            slope = torch.addcmul(slope + of_entropy * slopes.entropy[:, None], log_p, of_entropy)
        gradient = log_p.exp_().mul_(slope)
        inside, columns = _within(columns, logits.shape[1])
        gradient.scatter_add_(-1, columns[:, None], (towards * inside)[:, None])
        return gradient.to(logits.dtype)


def accumulator(tensor: Tensor) -> torch.dtype:
    """The type of all sums over such numbers."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _within(columns: Tensor, width: int) -> tuple[Tensor, Tensor]:
    # Any column for those outside, and not the rows inside alone: a GPU would have to be waited for to count them.
    return (columns >= 0) & (columns < width), columns.clamp(0, width - 1)
