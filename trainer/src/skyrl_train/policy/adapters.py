"""LoRA adapters on a model: added, switched off, merged, written as a folder that peft loads.

They are put into the transformers model itself (peft's injection), not around it: ``model.base_model`` and the output
embedding stay what they are, and so do the names of all parameters but those of the adapted layers. peft is imported
where adapters are wanted; it is an extra.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import LoraConfig

NAME = "default"
"""What peft calls an adapter that has no name of its own."""

Gather = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]
"""A context in which these parameters are whole; without shards it does nothing."""

GATHERED_BYTES = 256 * 2**20
"""Of parameters that are made whole at one time, so that the whole model never is."""

Part = tuple[str, list[nn.Parameter], Any]
"""The name of a tensor, the parameters that it is computed from, and the adapted layer that merges them, if any."""


def add_adapters(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Put new adapters in and freeze everything else. They change nothing yet: B is zero, A a function of the seed.

    Raises:
        SkyrlError: no layer has such a name, or one that cannot be adapted has; peft is not installed.
    """
    if config.rank is None:
        return
    try:
        import peft
    except ImportError as error:
        raise SkyrlError(f"adapters need peft ({error}): pip install 'skyrl-train[lora]'") from error

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rank_stabilised,
        target_modules=config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules),
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    head = model.get_output_embeddings()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, model, NAME)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise SkyrlError(
            f"trainer.lora.target_modules = {config.target_modules} does not fit the model: its linear layers are "
            f"{', '.join(names)}\n  ({str(error).splitlines()[0]})"
        ) from error
    _check(model, head)


def _check(model: PreTrainedModel, head: nn.Module) -> None:
    from peft.tuners.lora import Linear

    embedding: Any = model.get_input_embeddings()  # adapted, if the mistake below was made
    tied = head.weight is getattr(embedding, "base_layer", embedding).weight
    for name, layer in _adapted_layers(model).items():
        if not isinstance(layer, Linear):
            why = "it is an embedding or no linear layer"  # whose adapters the trainer could not merge
        elif layer.base_layer is head and tied:
            why = "its weight is also the input embedding, which would change when the adapter is merged"
        else:
            continue
        raise SkyrlError(f"trainer.lora.target_modules: {name} cannot have an adapter, because {why}; leave it out")


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether ``add_adapters`` has put any in."""
    return hasattr(model, "peft_config")


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """The adapted layers by their plain names."""
    if not has_adapters(model):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """The model computes what it computed before it had adapters, to the last bit.

    They are multiplied by zero instead of being left out: every module still runs, in the order that ZeRO-3 recorded.
    """
    layers = list(_adapted_layers(model).values())
    scales = [layer.scaling[NAME] for layer in layers]
    for layer in layers:
        layer.scaling[NAME] = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[NAME] = scale


def head_factors(head: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What the output embedding multiplies: hidden states [N, H] and weight [V, H], or [N, H + r] and [V, H + r].

    An adapter of rank r is columns beside them: h Wᵀ + scale · (h Aᵀ) Bᵀ = [h, scale · h Aᵀ] [W, B]ᵀ. No weight is
    rounded, as in a merged one, and gradients reach A and B. The weight is copied for that.
    """
    layer: Any = head
    weight: Tensor = layer.weight  # of an adapted layer, its base's
    scale = layer.scaling[NAME] if hasattr(layer, "lora_A") else 0.0
    if scale == 0.0:  # no adapter, or switched off
        return hidden, weight
    a, b = (factor[NAME].weight.to(hidden.dtype) for factor in (layer.lora_A, layer.lora_B))
    return torch.cat([hidden, scale * (hidden @ a.T)], dim=1), torch.cat([weight, b], dim=1)


def merged_tensors(model: PreTrainedModel, gather: Gather = nullcontext) -> Iterator[tuple[str, Tensor]]:
    """Each parameter once, under the name that transformers gives it, adapters merged into the weight of their layer.

    Merged weights are W + scale · B A, computed in float32 and returned in the type of W. A parameter without an
    adapter is the model's own. ``gather`` is asked for many parameters at once, never for the whole of a large model.
    """
    for bucket in _buckets(_parts(model)):
        with gather([parameter for _, parameters, _ in bucket for parameter in parameters]):
            for name, parameters, layer in bucket:
                yield name, parameters[0] if layer is None else _merged(layer)


def _parts(model: PreTrainedModel) -> Iterator[Part]:
    layers = _adapted_layers(model)
    adapters = {id(p) for layer in layers.values() for p in layer.parameters()} - {
        id(p) for layer in layers.values() for p in layer.base_layer.parameters()
    }
    for name, parameter in model.named_parameters():
        if id(parameter) in adapters:
            continue
        owner, _, kind = name.rpartition(".")
        plain = owner.removesuffix(".base_layer")
        layer = layers.get(plain)
        if layer is not None and kind == "weight":
            yield f"{plain}.{kind}", [parameter, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight], layer
        else:
            yield f"{plain}.{kind}", [parameter], None


def _buckets(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Lists of neighbours that hold few bytes once they are whole, but one of them at least."""
    bucket: list[Part] = []
    held = 0
    for part in parts:
        # A parameter that DeepSpeed has sharded says its whole size under a name of its own.
        size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in part[1])
        if bucket and held + size > GATHERED_BYTES:
            yield bucket
            bucket, held = [], 0
        bucket.append(part)
        held += size
    if bucket:
        yield bucket


@torch.no_grad()
def _merged(layer: Any) -> Tensor:
    weight: Tensor = layer.base_layer.weight
    change = layer.scaling[NAME] * (layer.lora_B[NAME].weight.float() @ layer.lora_A[NAME].weight.float())
    merged: Tensor = weight.float() + (change.T if layer.fan_in_fan_out else change)
    return merged.to(weight.dtype)


def merge_adapters(model: PreTrainedModel) -> None:
    """Turn the model into a plain one with merged weights."""
    for name, layer in _adapted_layers(model).items():
        layer.base_layer.weight.data = _merged(layer)
        model.set_submodule(name, layer.base_layer)
    if has_adapters(model):
        del model.peft_config


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters as ``PeftModel.from_pretrained(model, folder)`` reads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    # peft's own wrapper, which it loads them into, has the model at this place.
    tensors = {f"base_model.model.{name}": t.contiguous() for name, t in get_peft_model_state_dict(model).items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    model.peft_config[NAME].save_pretrained(str(folder))
