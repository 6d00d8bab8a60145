"""Log-probs and exact entropy of given tokens from hidden states, without materialised logits.

Shapes: N tokens, H hidden size, V vocabulary; a tile [n, v] has the logits of some tokens for a part of the vocabulary.
The forward pass iterates over the tiles and keeps a few numbers per token; the backward pass iterates in the same
order. A bounded part of the tiles is kept between the passes and the rest is recomputed: at most four matrix products
instead of three, and no N x V tensor in either pass.
"""

import importlib.util
import os
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skyrl_train.policy.log_probs.kept_tokens import KeptTokens
from skyrl_train.policy.log_probs.tile_passes import GradientInputs, Sums, TilePasses, TorchPasses

TILE = {"cpu": 2**20, "cuda": 2**26}
"""Entries of a tile: small enough for a CPU's caches, large enough to keep a GPU busy."""

KEPT_SHARE, KEPT_MAX_BYTES, KEPT_MIN_BYTES = 1 / 5, 512 * 2**20, 16 * 2**20
"""Limits for the logits kept for the backward pass: a share of all logits, but at least the minimum and at most the
maximum. A kept tile saves one product of four. The share keeps memory far below that of materialised logits; the
maximum bounds it for any number of tokens."""


class TokenStatistics(NamedTuple):
    """Log-probs and entropy of tokens, in nats; float32, or float64 if the hidden states are."""

    log_probs: Tensor  # [N]
    entropy: Tensor | None  # [N]; None unless requested


def token_statistics(  # noqa: PLR0913 - the inputs, the distribution and how to compute it
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 1024,
    with_entropy: bool = False,
    kept: KeptTokens | None = None,
    passes: TilePasses | None = None,
) -> TokenStatistics:
    """Log-prob of each token and entropy of its distribution, softmax(hidden · weightᵀ / temperature).

    Both outputs are differentiable with respect to hidden and weight.

    Args:
        hidden: float [N, H], the state that predicts the token.
        weight: float [V, H], the output embedding.
        token_ids: int64 [N].
        temperature: of the distribution, above 0.
        chunk_size: tokens per tile; does not influence the result.
        with_entropy: whether to compute the entropy too.
        kept: the entries of each of the N tokens over which its distribution is normalised; None means all.
        passes: implementation of the tile passes; by default ``passes_for(hidden)``.

    Raises:
        ValueError: the temperature or the chunk size is not positive.
    """
    if temperature <= 0 or chunk_size <= 0:
        raise ValueError(f"temperature and chunk_size must be positive, but they are {temperature} and {chunk_size}")
    tiling = Tiling(
        chunks=_slices(len(token_ids), chunk_size),
        parts=_slices(len(weight), max(TILE.get(hidden.device.type, TILE["cuda"]) // chunk_size, 1)),
        scale=1 / temperature,
        kept=kept,
        passes=passes or passes_for(hidden),
    )
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    share = int(KEPT_SHARE * len(hidden) * len(weight) * hidden.element_size())
    kept_bytes = min(KEPT_MAX_BYTES, max(share, KEPT_MIN_BYTES))
    apply: Any = _TokenStatistics.apply  # torch leaves it untyped
    log_probs, entropy = apply(hidden, weight, token_ids, tiling, with_entropy, with_gradient * kept_bytes)
    return TokenStatistics(log_probs, entropy)


def passes_for(hidden: Tensor) -> TilePasses:
    """Triton kernels on CUDA if Triton is installed; torch otherwise, or if SKYRL_LOG_PROBS=torch is set."""
    if hidden.is_cuda and os.environ.get("SKYRL_LOG_PROBS") != "torch" and importlib.util.find_spec("triton"):
        from skyrl_train.policy.log_probs import triton_kernels

        if hidden.dtype in triton_kernels.TYPES:
            return triton_kernels.TritonPasses()
    return TorchPasses()


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The tiles of one call, and the passes over them."""

    chunks: list[slice]  # of the tokens
    parts: list[slice]  # of the vocabulary
    scale: float  # 1 / temperature
    kept: KeptTokens | None  # the entries that are not left out
    passes: TilePasses

    def logits(self, hidden: Tensor, weight: Tensor, chunk: slice, part: slice) -> Tensor:
        """The tile of this chunk and this part."""
        logits = hidden[chunk] @ weight[part].T
        if self.kept is not None:
            self.kept.hide_others(logits, chunk, part)
        return logits


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
        sums = Sums.initial(len(token_ids), hidden, with_entropy)
        kept: deque[Tensor] = deque()
        for part in tiling.parts:
            for chunk in tiling.chunks:
                logits = tiling.logits(hidden, weight, chunk, part)
                tiling.passes.add(sums.of(chunk), logits, token_ids[chunk] - part.start, tiling.scale)
                if logits.nbytes <= kept_bytes:
                    kept.append(logits)
                    kept_bytes -= logits.nbytes
                else:
                    kept_bytes = 0  # keep only a prefix of the tiles: the backward pass takes them in order
        log_norm, entropy = sums.log_norm(), sums.entropy()
        ctx.save_for_backward(hidden, weight, token_ids, log_norm, entropy)
        ctx.tiling, ctx.kept = tiling, kept
        return sums.chosen - log_norm, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, log_norm, entropy = ctx.saved_tensors
        inputs = GradientInputs(log_norm, entropy, *grads)
        # Kept tiles are used once, because a pass may overwrite them: a second backward pass recomputes them.
        tiling, kept, ctx.kept = ctx.tiling, ctx.kept, deque()
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]  # skipping a frozen input saves a product and memory
        grad_hidden = torch.zeros_like(hidden, dtype=log_norm.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for part in tiling.parts:
            grad_part = torch.zeros_like(weight[part], dtype=log_norm.dtype) if needs_weight else None
            for chunk in tiling.chunks:
                logits = kept.popleft() if kept else tiling.logits(hidden, weight, chunk, part)
                columns = token_ids[chunk] - part.start
                grad_logits = tiling.passes.gradient(logits, columns, inputs.of(chunk), tiling.scale)
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
