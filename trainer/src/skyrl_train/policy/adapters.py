"""Adds, disables and merges the LoRA adapters of a model, and saves them as a folder that peft loads.

They are injected into the transformers model, not wrapped around it: ``model.base_model``, the output embedding and all
parameter names outside the adapted layers stay the same. peft is an extra, imported only when adapters are used.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from skyrl_core.errors import SkyrlError
from skyrl_train.config.extras import install_extra
from skyrl_train.config.schema import LoraConfig

NAME = "default"
"""peft's name for an adapter that was not given one."""

Gather = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]
"""A context in which these parameters are complete; without shards it does nothing."""

GATHERED_BYTES = 256 * 2**20
"""Limit for the parameters gathered at one time, so that the complete model is never in memory."""

Part = tuple[str, list[nn.Parameter], Any]
"""The name of a tensor, the parameters it is computed from, and the adapted layer to merge, if any."""


def add_adapters(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Add adapters that do not change outputs yet, and freeze all else: B is zero, A depends on seed.

    Raises:
        SkyrlError: no layer has the configured name, a layer with that name cannot be adapted, or peft is missing.
    """
    if config.rank is None:
        return
    try:
        import peft
    except ImportError as error:
        raise SkyrlError(f"trainer.lora needs peft ({error}): {install_extra('peft')}") from error

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rank_stabilised,
        target_modules=config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules),
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    head = model.get_output_embeddings()
    settings.target_modules = _without_experts(settings, model)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, model, NAME)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise SkyrlError(
            f"trainer.lora.target_modules = {config.target_modules} does not fit the model: choose from its linear "
            f"layers {', '.join(names)}\n  ({str(error).splitlines()[0]})"
        ) from error
    _check_adapted_layers(model, head)


def _without_experts(settings: Any, model: PreTrainedModel) -> Any:
    """The layers to adapt, without experts, whose weights are fused in one tensor; they stay frozen.

    peft takes the names of experts' layers in older files, such as gate_proj, for these tensors.
    """
    given = settings.target_modules
    kept = _renamed_by_peft(settings, model)
    if kept is None:
        return given
    if given != "all-linear":
        experts = ", ".join(sorted(set(given) - kept))
        raise SkyrlError(
            f"trainer.lora.target_modules: {experts} include the experts of this model, whose weights are fused and "
            "cannot have adapters; remove their names, or choose all-linear, which leaves the experts frozen"
        )
    head = model.get_output_embeddings()
    linear = {name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head}
    names = copy.deepcopy(settings)
    names.target_modules = linear
    return sorted(linear if (kept := _renamed_by_peft(names, model)) is None else kept)


def _renamed_by_peft(settings: Any, model: PreTrainedModel) -> set[str] | None:
    """The names that peft leaves as they are if it takes others for fused experts; None if it takes none."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # an older peft, which does not know fused experts
        return None
    changed = copy.deepcopy(settings)
    try:
        convert_peft_config_for_transformers(changed, model, None)
    except ValueError:  # only some of the layers of an expert are named
        return set()
    return set(changed.target_modules) if getattr(changed, "target_parameters", None) else None


def _check_adapted_layers(model: PreTrainedModel, head: nn.Module) -> None:
    from peft.tuners.lora import Linear

    embedding: Any = model.get_input_embeddings()  # has an adapter if it was listed by mistake
    tied = head.weight is getattr(embedding, "base_layer", embedding).weight
    for name, layer in _adapted_layers(model).items():
        if not isinstance(layer, Linear):
            why = "it is not a linear layer"  # the trainer could not merge its adapter
        elif layer.base_layer is head and tied:
            why = "its weight is also the input embedding, which would change when the adapter is merged"
        else:
            continue
        raise SkyrlError(f"trainer.lora.target_modules: {name} cannot have an adapter, because {why}; remove it")


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether ``add_adapters`` has added any."""
    return hasattr(model, "peft_config")


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """The adapted layers by the names they have in the unadapted model."""
    if not has_adapters(model):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """A context in which the model's outputs are bit-identical to those without adapters.

    Adapters are multiplied by zero, not skipped: every module still runs, in the order that ZeRO-3 recorded.
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
    """The factors of the logits: hidden [N, H] and weight [V, H]; H + r columns with an adapter.

    An adapter of rank r adds columns to both: h Wᵀ + scale · (h Aᵀ) Bᵀ = [h, scale · h Aᵀ] [W, B]ᵀ. Unlike a merged
    weight this rounds nothing, and gradients reach A and B. It costs a copy of the weight.
    """
    layer: Any = head
    weight: Tensor = layer.weight  # an adapted layer returns the weight of its base layer
    scale = layer.scaling[NAME] if hasattr(layer, "lora_A") else 0.0
    if scale == 0.0:  # no adapter, or disabled
        return hidden, weight
    a, b = (factor[NAME].weight.to(hidden.dtype) for factor in (layer.lora_A, layer.lora_B))
    return torch.cat([hidden, scale * (hidden @ a.T)], dim=1), torch.cat([weight, b], dim=1)


def merged_tensors(model: PreTrainedModel, gather: Gather = nullcontext) -> Iterator[tuple[str, Tensor]]:
    """Each parameter once, under its transformers name, with adapters merged into their layers' weights.

    Merged weights are W + scale · B A, computed in float32 and returned in the type of W. A parameter without an
    adapter is returned as it is. A call of ``gather`` gets at most ``GATHERED_BYTES``, or a single larger tensor.
    """
    for bucket in _buckets(_parts(model)):
        with gather([parameter for _, parameters, _ in bucket for parameter in parameters]):
            for name, parameters, layer in bucket:
                yield name, parameters[0] if layer is None else _merged_weight(layer)


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
    """Lists of consecutive parts of at most GATHERED_BYTES when gathered, or of one larger part."""
    bucket: list[Part] = []
    held = 0
    for part in parts:
        # DeepSpeed stores the complete size of a sharded parameter in ds_numel.
        size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in part[1])
        if bucket and held + size > GATHERED_BYTES:
            yield bucket
            bucket, held = [], 0
        bucket.append(part)
        held += size
    if bucket:
        yield bucket


@torch.no_grad()
def _merged_weight(layer: Any) -> Tensor:
    weight: Tensor = layer.base_layer.weight
    change = layer.scaling[NAME] * (layer.lora_B[NAME].weight.float() @ layer.lora_A[NAME].weight.float())
    merged: Tensor = weight.float() + (change.T if layer.fan_in_fan_out else change)
    return merged.to(weight.dtype)


def merge_adapters(model: PreTrainedModel) -> None:
    """Merge the adapters into the weights and remove them."""
    for name, layer in _adapted_layers(model).items():
        layer.base_layer.weight.data = _merged_weight(layer)
        model.set_submodule(name, layer.base_layer)
    if has_adapters(model):
        del model.peft_config


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters so that ``PeftModel.from_pretrained(model, folder)`` loads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    # peft loads them into its wrapper, which holds the model under this prefix.
    tensors = {f"base_model.model.{name}": t.contiguous() for name, t in get_peft_model_state_dict(model).items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    model.peft_config[NAME].save_pretrained(str(folder))
