"""The weight sources of rollout engines: a model, guarded against reads during updates, with noise; as a checkpoint."""

import re
from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.rollout_engine import WeightSource

PERTURBATION = 0.1
"""Noise as a share of each tensor's root mean square: far more than any optimizer step changes."""


class ModelWeights:
    """The weights of a model that is complete in this process."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters of the model."""
        yield from self.model.named_parameters()


def checkpoint_tensors(weights: WeightSource) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a source as a checkpoint has them, for engines that load checkpoints, such as vLLM.

    transformers renames and fuses tensors when it loads a checkpoint, such as the matrices of all experts of a layer.
    This reverts it with the mapping that ``save_pretrained`` uses, and adds the buffers that a checkpoint stores. A
    tensor is valid only until the next one is requested.
    """
    model = weights.model
    yield from _reverted(model, weights.named_tensors())
    persistent = model.state_dict().keys()
    yield from _reverted(model, ((name, tensor) for name, tensor in model.named_buffers() if name in persistent))


def _reverted(model: PreTrainedModel, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    if not _is_converted(model):
        yield from tensors
        return
    # A conversion never spans layers, so one layer at a time is complete in memory.
    for _, layer in groupby(tensors, key=lambda pair: _layer_of(pair[0])):
        yield from revert_weight_conversion(model, {name: tensor.detach().clone() for name, tensor in layer}).items()


def _is_converted(model: PreTrainedModel) -> bool:
    """Whether a checkpoint of the model has other names or layouts than the module."""
    # DeepSpeed stores the complete shape of a sharded parameter in ds_shape.
    named = {
        name.replace(".base_layer.", "."): torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta")
        for name, parameter in model.named_parameters()  # with an adapter, those of its layer have this suffix
    }
    reverted = revert_weight_conversion(model, dict(named))
    return any(reverted.get(name) is not tensor for name, tensor in named.items())


def _layer_of(name: str) -> str:
    """The name up to the number of the layer, or the complete name of a tensor outside the layers."""
    numbered = re.match(r".*?\.\d+\.", name)
    return numbered.group() if numbered else name


class WeightsUpdatingError(SkyrlError):
    """The weights cannot be read, because an update is changing them."""


class GuardedWeights:
    """Refuses reads while an update changes the weights: half of the tensors would be of another policy."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self.updating = False

    @property
    def model(self) -> PreTrainedModel:
        """That of the source."""
        return self._weights.model

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

    @property
    def model(self) -> PreTrainedModel:
        """That of the source."""
        return self._weights.model

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Noisy copies, the same on every rank; the source is not changed."""
        generator = torch.Generator().manual_seed(0)
        for name, tensor in self._weights.named_tensors():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
            scale = PERTURBATION * tensor.detach().float().square().mean().sqrt()
            yield name, (tensor.detach().float() + scale * noise).to(tensor.dtype)
