"""Linear layers as decoding applies them: many times with the same weights, without gradient, few rows at a time."""

import torch
from torch import Tensor, nn

from skyrl_train.policy.cpu.linear import FastLinear, linear
from skyrl_train.policy.cpu.product import followed

Part = tuple[Tensor, Tensor | None]
"""Weight and bias."""


class Projection:
    """Layers of the same input as one, whose outputs [n, out] are next to each other."""

    def __init__(self, *layers: nn.Linear, copy: bool) -> None:
        """``copy``: keep weights in the order that products like best; they are those of this moment then."""
        self._layers = layers
        self._parts: list[Part] = [(layer.weight, layer.bias) for layer in layers if type(layer) is FastLinear]
        if len(self._parts) < len(layers):
            self._parts = []  # an adapter, say: it has a forward pass of its own
        elif copy:
            self._parts = [_one(self._parts)]

    def __call__(
        self, rows: Tensor, *, silu: bool = False, times: Tensor | None = None, plus: Tensor | None = None
    ) -> Tensor:
        """[n, in] -> [n, out], and what follows it, as in ``product``."""
        if len(self._parts) == 1:
            return linear(rows, *self._parts[0], silu=silu, times=times, plus=plus)
        outputs = [linear(rows, *part) for part in self._parts] or [layer(rows) for layer in self._layers]
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return followed(whole, silu=silu, times=times, plus=plus)


def _one(parts: list[Part]) -> Part:
    """As one weight by columns: otherwise each product would begin with putting it in that order."""
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight.T.contiguous().T, None
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    return weight.T.contiguous().T, torch.cat(biases)
