"""Log-probabilities and exact entropy of given tokens, from hidden states, without [tokens, vocabulary] logits.

Shapes: N tokens, H hidden size, V vocabulary; [n, v] is a tile of logits, some tokens and a part of the vocabulary. The
forward pass goes over the tiles and keeps a few numbers of each token; the backward pass goes over them in the same
order. Of the tiles themselves a bounded part is kept from one to the other, and the rest is made anew: at most four
products of matrices instead of three, and no tensor of N x V in either direction.
"""

import importlib.util
import os
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skyrl_train.policy.log_probs.tile_passes import Slopes, Sums, TilePasses, TorchPasses

TILE = {"cpu": 2**20, "cuda": 2**26}
"""Entries of a tile: on a CPU what its caches still help with, on a GPU what keeps it busy."""

KEPT_SHARE, KEPT_BYTES, KEPT_ANYWAY = 1 / 5, 512 * 2**20, 16 * 2**20
"""Of all logits, what is kept for the backward pass: no more than either of the first two, and what is little anyway. A
kept tile saves one product of four. The share holds the memory far below that of materialised logits, the bytes hold it
down however many tokens there are."""


class TokenStatistics(NamedTuple):
    """What the policy says of each token. Nats; float32, or float64 where the hidden states are."""

    log_probs: Tensor  # [N]
    entropy: Tensor | None  # [N]; None unless asked for


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    with_entropy: bool = False,
    passes: TilePasses | None = None,
) -> TokenStatistics:
    """Log-probability of each token and entropy of its distribution, softmax(hidden · weightᵀ / temperature).

    Differentiable in hidden and weight through both outputs.

    Args:
        hidden: float [N, H], the state that predicts the token.
        weight: float [V, H], the output embedding.
        token_ids: int64 [N].
        temperature: of the distribution, above 0.
        chunk_size: tokens of a tile; no influence on the result.
        with_entropy: whether to compute the entropy as well.
        passes: over the tiles; by default what suits the device.

    Raises:
        ValueError: the temperature or the chunk size is not positive.
    """
    if temperature <= 0 or chunk_size <= 0:
        raise ValueError(f"temperature and chunk_size must be positive, got {temperature} and {chunk_size}")
    tiling = Tiling(
        chunks=_slices(len(token_ids), chunk_size),
        parts=_slices(len(weight), max(TILE.get(hidden.device.type, TILE["cuda"]) // chunk_size, 1)),
        scale=1 / temperature,
        passes=passes or passes_for(hidden),
    )
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    share = int(KEPT_SHARE * len(hidden) * len(weight) * hidden.element_size())
    kept_bytes = min(KEPT_BYTES, max(share, KEPT_ANYWAY))
    apply: Any = _TokenStatistics.apply  # torch leaves it untyped
    log_probs, entropy = apply(hidden, weight, token_ids, tiling, with_entropy, with_gradient * kept_bytes)
    return TokenStatistics(log_probs, entropy)


def passes_for(hidden: Tensor) -> TilePasses:
    """Triton's kernels on CUDA where Triton is installed, torch elsewhere, and where SKYRL_LOG_PROBS=torch says so."""
    if hidden.is_cuda and os.environ.get("SKYRL_LOG_PROBS") != "torch" and importlib.util.find_spec("triton"):
        from skyrl_train.policy.log_probs import triton_kernels

        if hidden.dtype in triton_kernels.TYPES:
            return triton_kernels.TritonPasses()
    return TorchPasses()


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The tiles of one call, and what is done with them."""

    chunks: list[slice]  # of the tokens
    parts: list[slice]  # of the vocabulary
    scale: float  # 1 / temperature
    passes: TilePasses


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        token_ids: Tensor,
        tiling: Tiling,
        with_entropy: bool,
        kept_bytes: int,
    ) -> tuple[Tensor, Tensor | None]:
        sums = Sums.before_the_first_tile(len(token_ids), hidden, with_entropy)
        kept: deque[Tensor] = deque()
        for part in tiling.parts:
            for chunk in tiling.chunks:
                logits = hidden[chunk] @ weight[part].T
                tiling.passes.add(sums.of(chunk), logits, token_ids[chunk] - part.start, tiling.scale)
                if logits.nbytes <= kept_bytes:
                    kept.append(logits)
                    kept_bytes -= logits.nbytes
                else:
                    kept_bytes = 0  # the first tiles, without a gap
        log_norm, entropy = sums.log_norm(), sums.entropy()
        ctx.save_for_backward(hidden, weight, token_ids, log_norm, entropy)
        ctx.tiling, ctx.kept = tiling, kept
        return sums.chosen - log_norm, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, log_norm, entropy = ctx.saved_tensors
        slopes = Slopes(log_norm, entropy, *grads)
        # The tiles that are kept are handed out once: a second backward pass through this graph makes them anew.
        tiling, kept, ctx.kept = ctx.tiling, ctx.kept, deque()
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]  # a frozen one would cost a product, and its memory
        grad_hidden = torch.zeros_like(hidden, dtype=log_norm.dtype) if wants_hidden else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        for part in tiling.parts:
            grad_part = torch.zeros_like(weight[part], dtype=log_norm.dtype) if wants_weight else None
            for chunk in tiling.chunks:
                logits = kept.popleft() if kept else hidden[chunk] @ weight[part].T
                columns = token_ids[chunk] - part.start
                grad_logits = tiling.passes.gradient(logits, columns, slopes.of(chunk), tiling.scale)
                if grad_hidden is not None:
                    grad_hidden[chunk] += grad_logits @ weight[part]
                if grad_part is not None:
                    grad_part += grad_logits.T @ hidden[chunk]
            if grad_weight is not None and grad_part is not None:
                grad_weight[part] = grad_part
        grad_hidden = None if grad_hidden is None else grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
