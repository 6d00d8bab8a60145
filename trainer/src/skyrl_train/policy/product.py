"""Products of matrices a · bᵀ, by the library that is fastest at them on this device."""

import torch
from torch import Tensor

ONEDNN_FROM = 2**20
"""Multiplications from which on a product gains more than its start in oneDNN costs, 10 µs."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """[m, k] · [n, k]ᵀ, [m, n], in the type of both; in whatever order their elements lie.

    No gradient flows through it.
    """
    worth_it = len(a) * len(b) * a.shape[1] >= ONEDNN_FROM
    if worth_it and a.dtype == torch.float32 and a.device.type == "cpu" and _onednn():
        # torch.mm would ask MKL, which on CPUs of other makers than Intel runs at half the rate of oneDNN.
        tile: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return tile
    return a @ b.T


def _onednn() -> bool:
    # What torch.compile calls for a linear layer on a CPU; not in every build of torch, and no public name has it.
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
