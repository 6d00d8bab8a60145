"""The weight sources of rollout engines: a model, guarded against reads during updates, with noise."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import WeightSource

PERTURBATION = 0.1
"""Noise as a share of each tensor's root mean square: far more than any optimizer step changes."""


class ModelWeights:
    """The weights of a model that is complete in this process."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters of the model."""
        yield from self._model.named_parameters()


class WeightsUpdatingError(SkyrlError):
    """The weights cannot be read, because an update is changing them."""


class GuardedWeights:
    """Refuses reads while an update changes the weights: half of the tensors would be of another policy."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self.updating = False

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the source.

        Raises:
            WeightsUpdatingError: an update is running; raised by the call, before the first tensor is requested.
        """
        if self.updating:
            raise WeightsUpdatingError("the weights cannot be read while they are being trained: wait for the update")
        return self._weights.named_tensors()


class PerturbedWeights:
    """Adds noise to every tensor: an engine that loads these weights computes different log-probs."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Noisy copies, the same on every rank; the source is not changed."""
        generator = torch.Generator().manual_seed(0)
        for name, tensor in self._weights.named_tensors():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
            scale = PERTURBATION * tensor.detach().float().square().mean().sqrt()
            yield name, (tensor.detach().float() + scale * noise).to(tensor.dtype)
