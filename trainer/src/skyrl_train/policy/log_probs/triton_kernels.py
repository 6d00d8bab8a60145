"""The passes over a tile of logits as Triton kernels for CUDA: each reads the tile once.

One program of the forward kernel goes over the row of one token, so that its running sums stay in registers; programs
of the backward kernel write blocks of the gradient over the logits. Sums are float32 whatever the type of the logits.
The maths is that of ``tile_passes.TorchPasses``. Imported only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from skyrl_train.policy.log_probs.tile_passes import Slopes, Sums

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of tiles that the kernels take."""

BLOCK = 2048
"""Entries of a row that a program holds at one time: 16 for each of its threads. With twice as many
a variant spilled registers."""

WARPS = 4


class TritonPasses:
    """Both passes as kernels, for tiles of one of ``TYPES`` whose rows lie whole in memory."""

    def add(self, sums: Sums, logits: Tensor, columns: Tensor, scale: float) -> None:
        """See ``TilePasses``."""
        rows, width = logits.shape
        _add[(rows,)](
            logits,
            logits.stride(0),
            columns,
            sums.largest,
            sums.total,
            sums.total if sums.weighted is None else sums.weighted,
            sums.chosen,
            width,
            scale,
            WITH_ENTROPY=sums.weighted is not None,
            BLOCK=_block(width),
            num_warps=WARPS,
        )

    def gradient(self, logits: Tensor, columns: Tensor, slopes: Slopes, scale: float) -> Tensor:
        """See ``TilePasses``. Writes over the logits."""
        rows, width = logits.shape
        block = _block(width)
        with_entropy = slopes.entropy is not None and slopes.of_entropy is not None
        _gradient[(rows, triton.cdiv(width, block))](
            logits,
            logits.stride(0),
            columns,
            slopes.log_norm,
            slopes.entropy if with_entropy else slopes.log_norm,
            slopes.of_log_prob.contiguous(),  # of a sum: one number, expanded
            slopes.of_entropy.contiguous() if with_entropy and slopes.of_entropy is not None else slopes.log_norm,
            width,
            scale,
            WITH_ENTROPY=with_entropy,
            BLOCK=block,
            num_warps=WARPS,
        )
        return logits


def _block(width: int) -> int:
    return min(BLOCK, max(int(triton.next_power_of_2(width)), 16))


@triton.jit
def _add(
    logits_pointer,
    row_stride,
    columns_pointer,
    largest_pointer,
    total_pointer,
    weighted_pointer,
    chosen_pointer,
    width,
    scale,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits_pointer += row.to(tl.int64) * row_stride
    largest = tl.load(largest_pointer + row)
    total = tl.load(total_pointer + row)
    weighted = 0.0
    if WITH_ENTROPY:
        weighted = tl.load(weighted_pointer + row)
    offsets = tl.arange(0, BLOCK)
    for start in range(0, width, BLOCK):
        inside = start + offsets < width
        logits = tl.load(logits_pointer + start + offsets, mask=inside, other=-float("inf")).to(tl.float32) * scale
        new = tl.maximum(largest, tl.max(logits, 0))
        fallen = tl.maximum(largest - new, -3.0e38)  # -inf before the first tile; times a sum of zero
        rescale = tl.exp(fallen)
        shifted = logits - new
        exponentials = tl.exp(shifted)  # 0 beyond the row
        if WITH_ENTROPY:
            weighted = rescale * (weighted + total * fallen)
            weighted += tl.sum(exponentials * tl.where(inside, shifted, 0.0), 0)  # 0 · -inf would be no number
        total = rescale * total + tl.sum(exponentials, 0)
        largest = new
    tl.store(largest_pointer + row, largest)
    tl.store(total_pointer + row, total)
    if WITH_ENTROPY:
        tl.store(weighted_pointer + row, weighted)
    column = tl.load(columns_pointer + row)
    if (column >= 0) & (column < width):
        tl.store(chosen_pointer + row, tl.load(logits_pointer + column).to(tl.float32) * scale)


@triton.jit
def _gradient(
    logits_pointer,
    row_stride,
    columns_pointer,
    log_norm_pointer,
    entropy_pointer,
    of_log_prob_pointer,
    of_entropy_pointer,
    width,
    scale,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits_pointer += row.to(tl.int64) * row_stride
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    logits = tl.load(logits_pointer + offsets, mask=inside, other=0.0).to(tl.float32) * scale
    log_p = logits - tl.load(log_norm_pointer + row)
    of_log_prob = tl.load(of_log_prob_pointer + row)
    slope = of_log_prob
    if WITH_ENTROPY:
        slope += tl.load(of_entropy_pointer + row) * (log_p + tl.load(entropy_pointer + row))
    own = offsets == tl.load(columns_pointer + row)
    gradient = (tl.where(own, of_log_prob, 0.0) - tl.exp(log_p) * slope) * scale
    tl.store(logits_pointer + offsets, gradient.to(logits_pointer.dtype.element_ty), mask=inside)
