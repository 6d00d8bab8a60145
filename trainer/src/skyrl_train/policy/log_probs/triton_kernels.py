"""The passes over a tile of logits as Triton kernels for CUDA, each of which reads the tile once.

A program of the forward kernel processes the row of one token, so that its running sums stay in registers; programs of
the backward kernel overwrite the logits with blocks of the gradient. Sums are float32 for every type of logits.
The maths is that of ``tile_passes.TorchPasses``. Imported only if Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from skyrl_train.policy.log_probs.tile_passes import GradientInputs, Sums

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of tiles that the kernels support."""

BLOCK = 2048
"""Entries of a row that a program holds at one time, 16 per thread. Twice as many made a variant spill registers."""

WARPS = 4


class TritonPasses:
    """Both passes as kernels, for tiles of one of ``TYPES`` with contiguous rows."""

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

    def gradient(self, logits: Tensor, columns: Tensor, inputs: GradientInputs, scale: float) -> Tensor:
        """See ``TilePasses``. Overwrites the logits."""
        rows, width = logits.shape
        block = _block(width)
        with_entropy = inputs.entropy is not None and inputs.entropy_grad is not None
        _gradient[(rows, triton.cdiv(width, block))](
            logits,
            logits.stride(0),
            columns,
            inputs.log_norm,
            inputs.entropy if with_entropy else inputs.log_norm,
            inputs.log_prob_grad.contiguous(),  # the gradient of a sum is one expanded number
            inputs.entropy_grad.contiguous() if with_entropy and inputs.entropy_grad is not None else inputs.log_norm,
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
        shift = tl.maximum(largest - new, -3.0e38)  # finite even before the first tile: -inf times a sum of zero is NaN
        rescale = tl.exp(shift)
        shifted = logits - new
        exponentials = tl.exp(shifted)  # 0 beyond the row
        if WITH_ENTROPY:
            weighted = rescale * (weighted + total * shift)
            weighted += tl.sum(exponentials * tl.where(inside, shifted, 0.0), 0)  # 0 · -inf would be NaN
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
    log_prob_grad_pointer,
    entropy_grad_pointer,
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
    log_prob_grad = tl.load(log_prob_grad_pointer + row)
    factor = log_prob_grad
    if WITH_ENTROPY:
        factor += tl.load(entropy_grad_pointer + row) * (log_p + tl.load(entropy_pointer + row))
    chosen = offsets == tl.load(columns_pointer + row)
    gradient = (tl.where(chosen, log_prob_grad, 0.0) - tl.exp(log_p) * factor) * scale
    tl.store(logits_pointer + offsets, gradient.to(logits_pointer.dtype.element_ty), mask=inside)
