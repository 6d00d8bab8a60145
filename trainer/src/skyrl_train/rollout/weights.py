"""Weights as a rollout engine takes them over: of a whole model, only while they stand still, or wrong on purpose."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import WeightSource

PERTURBATION = 0.1
"""Of every tensor, as a share of its root mean square: far beyond what any optimizer step does."""


class ModelWeights:
    """A model that is whole in this process."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its parameters."""
        yield from self._model.named_parameters()


class MovingWeightsError(SkyrlError):
    """Somebody asked for weights that an update is changing."""


class SettledWeights:
    """Another source, which gives nothing while an update moves it: half of the tensors would be of another policy."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self.moving = False

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the source.

        Raises:
            MovingWeightsError: an update goes on; at once, before the first tensor is asked for.
        """
        if self.moving:
            raise MovingWeightsError("the weights are being trained, and cannot be handed over now")
        return self._weights.named_tensors()


class PerturbedWeights:
    """Another source with noise on every tensor: an engine that takes these over gives other log-probs."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Copies, the same on every rank; the source stays as it is."""
        generator = torch.Generator().manual_seed(0)
        for name, tensor in self._weights.named_tensors():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
            scale = PERTURBATION * tensor.detach().float().square().mean().sqrt()
            yield name, (tensor.detach().float() + scale * noise).to(tensor.dtype)
