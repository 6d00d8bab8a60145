"""Products of matrices a · bᵀ, by the library that is fastest at them on this device."""

import torch
from torch import Tensor

ONEDNN_FROM = 2**20
"""Multiplications from which on a product gains more than its start in oneDNN costs, 10 µs."""


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """[m, k] · [n, k]ᵀ + [n], [m, n], in the type of all; in whatever order their elements lie.

    No gradient flows through it.
    """
    if len(a) * len(b) * a.shape[1] >= ONEDNN_FROM and uses_onednn(a, b):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return result
    return torch.nn.functional.linear(a, b, bias)


def uses_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether a large product of the two is one for oneDNN."""
    # Otherwise torch asks MKL, which on CPUs of other makers than Intel runs at half the rate of oneDNN.
    return a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and _onednn()


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
