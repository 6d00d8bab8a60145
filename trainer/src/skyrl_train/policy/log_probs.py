"""Log-probabilities and exact entropy of given tokens, from hidden states, without [tokens, vocabulary] logits.

Shapes: N tokens, H hidden size, V vocabulary; [n, v] is a tile of logits, some tokens and a part of the vocabulary. One
tile at a time exists: in the forward pass, which keeps two numbers of each token, and in the backward pass, which makes
it anew. That is four products of matrices instead of three, and no tensor of N x V in either direction.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = {"cpu": 2**20, "cuda": 2**26}
"""Entries of a tile: on a CPU what its caches still help with, on a GPU what keeps it busy."""


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

    Raises:
        ValueError: the temperature or the chunk size is not positive.
    """
    if temperature <= 0 or chunk_size <= 0:
        raise ValueError(f"temperature and chunk_size must be positive, got {temperature} and {chunk_size}")
    apply: Any = _TokenStatistics.apply  # torch leaves it untyped
    log_probs, entropy = apply(hidden, weight, token_ids, temperature, chunk_size, with_entropy)
    return TokenStatistics(log_probs, entropy if with_entropy else None)


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        token_ids: Tensor,
        temperature: float,
        chunk_size: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        log_norm = hidden.new_empty(len(token_ids), dtype=_accumulator(hidden))  # log Σ exp(logit)
        log_probs = torch.empty_like(log_norm)
        entropy = torch.empty_like(log_norm) if with_entropy else log_norm.new_zeros(0)
        for chunk in _slices(len(token_ids), chunk_size):
            sums = _Sums(len(token_ids[chunk]), log_norm)
            chosen = torch.zeros_like(log_norm[chunk])  # the logit of the token itself
            for part in _slices(len(weight), _tile_width(hidden, chunk_size)):
                logits = _logits(hidden[chunk], weight[part], temperature)
                inside, columns = _tokens_within(token_ids[chunk], part)
                chosen = torch.where(inside, logits.gather(-1, columns[:, None]).squeeze(-1), chosen)
                sums.add(logits, with_entropy)
            log_norm[chunk] = sums.log_norm
            log_probs[chunk] = chosen - log_norm[chunk]
            if with_entropy:
                entropy[chunk] = sums.entropy
        ctx.save_for_backward(hidden, weight, token_ids, log_norm, entropy)
        ctx.temperature, ctx.chunk_size, ctx.with_entropy = temperature, chunk_size, with_entropy
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, log_norm, entropy = ctx.saved_tensors
        grad_log_probs, grad_entropy = (grad / ctx.temperature for grad in grads)
        grad_hidden = torch.zeros_like(hidden, dtype=log_norm.dtype)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None  # a frozen one would cost [V, H]
        for part in _slices(len(weight), _tile_width(hidden, ctx.chunk_size)):
            grad_part = torch.zeros_like(weight[part], dtype=log_norm.dtype)
            for chunk in _slices(len(token_ids), ctx.chunk_size):
                log_p = _logits(hidden[chunk], weight[part], ctx.temperature).sub_(log_norm[chunk, None])
                # d log p_y / d logit_v = [v = y] - p_v;  d entropy / d logit_v = -p_v (log p_v + entropy).
                slope = grad_log_probs[chunk, None]
                if ctx.with_entropy:
                    towards = grad_entropy[chunk, None]
                    slope = torch.addcmul(slope + towards * entropy[chunk, None], log_p, towards)
                grad_logits = log_p.exp_().mul_(slope).neg_()
                inside, columns = _tokens_within(token_ids[chunk], part)
                grad_logits.scatter_add_(-1, columns[:, None], (grad_log_probs[chunk] * inside)[:, None])
                grad_logits = grad_logits.to(hidden.dtype)
                grad_hidden[chunk] += grad_logits @ weight[part]
                if grad_weight is not None:
                    grad_part += grad_logits.T @ hidden[chunk]
            if grad_weight is not None:
                grad_weight[part] = grad_part
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


class _Sums:
    """Σ exp(logit) and Σ exp(logit) · logit of n tokens over the tiles seen so far, relative to the largest logit."""

    def __init__(self, count: int, like: Tensor) -> None:
        self._largest = like.new_full((count,), -torch.inf)
        self._sum = like.new_zeros(count)
        self._weighted = like.new_zeros(count)

    def add(self, logits: Tensor, with_entropy: bool) -> None:
        """One tile [n, v] more, which is overwritten."""
        largest = torch.maximum(self._largest, logits.amax(-1))
        fallen = (self._largest - largest).clamp(min=torch.finfo(logits.dtype).min)  # -inf before the first tile
        rescale = fallen.exp()
        logits -= largest[:, None]
        if with_entropy:
            exponentials = logits.exp()
            self._weighted = rescale * (self._weighted + self._sum * fallen)
            self._weighted += torch.linalg.vecdot(exponentials, logits)
        else:
            exponentials = logits.exp_()
        self._sum = rescale * self._sum + exponentials.sum(-1)
        self._largest = largest

    @property
    def log_norm(self) -> Tensor:
        """log Σ exp(logit), [n]."""
        return self._largest + self._sum.log()

    @property
    def entropy(self) -> Tensor:
        """-Σ p log p, [n], nats."""
        return self._sum.log() - self._weighted / self._sum


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    # The temperature inside the product: it costs no pass over the tile of its own.
    tile = torch.addmm(hidden.new_zeros(()), hidden, weight.T, beta=0, alpha=1 / temperature)
    return tile.to(_accumulator(hidden))


def _accumulator(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _tile_width(hidden: Tensor, chunk_size: int) -> int:
    return max(TILE.get(hidden.device.type, TILE["cuda"]) // chunk_size, 1)


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _tokens_within(token_ids: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Which tokens lie in this part of the vocabulary, bool [n], and their columns in its tile; else any column."""
    inside = (token_ids >= part.start) & (token_ids < part.stop)
    # Not the rows alone: a GPU would have to be waited for to count them.
    return inside, (token_ids - part.start).clamp(0, part.stop - part.start - 1)
