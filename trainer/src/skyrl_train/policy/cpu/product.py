"""Products of matrices a · bᵀ, by the library that is fastest at them on this device."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

ONEDNN_FROM = 2**20
"""Multiplications from which on a product gains more than its start in oneDNN costs, 10 µs."""


def product(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    silu: bool = False,
    times: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """[m, k] · [n, k]ᵀ + [n], [m, n], in the type of all; in whatever order their elements lie.

    No gradient flows through it.

    Args:
        a: left.
        b: right.
        bias: added to every row.
        silu: whether to take the SiLU of the result.
        times: [m, n], what to multiply it with.
        plus: [m, n], what to add to it. At most one of the three, which oneDNN does in the same pass.
    """
    if a.shape[0] * b.shape[0] * a.shape[1] < ONEDNN_FROM or not uses_onednn(a, b):
        return followed(nn.functional.linear(a, b, bias), silu=silu, times=times, plus=plus)
    bias = None if bias is None else bias.contiguous()  # it is read as if it were
    onednn: Any = torch.ops.mkldnn._linear_pointwise
    other = times if times is not None else plus
    result: Tensor
    if other is None:
        result = onednn(a, b, bias, "swish" if silu else "none", [], "")
    else:
        result = onednn.binary(a, other, b, bias, "add" if times is None else "mul")
    return result


def followed(result: Tensor, *, silu: bool, times: Tensor | None, plus: Tensor | None) -> Tensor:
    """What ``product`` does after the product."""
    if silu:
        return nn.functional.silu(result)
    if times is not None:
        return result * times
    return result if plus is None else result + plus


def uses_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether a large product of the two is one for oneDNN."""
    # Otherwise torch asks MKL, which on CPUs of other makers than Intel runs at half the rate of oneDNN.
    return a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and _onednn()


@functools.cache
def _onednn() -> bool:
    # What torch.compile calls for a linear layer on a CPU; not in every build of torch, and no public name has it.
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def few_sizes(rows: int) -> int:
    """The next larger number of rows that products are given: a multiple of a power of two, at most 1/32 above.

    oneDNN prepares itself for each size that it meets, which takes half a millisecond and half a mebibyte. Where every
    batch has another number of tokens, a few more rows of nothing cost less.
    """
    step = max(16, 1 << max(rows.bit_length() - 6, 0))
    return -(-rows // step) * step
