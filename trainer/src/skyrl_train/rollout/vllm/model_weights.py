"""Loads weights into vLLM's model while it runs. Imports vLLM, so it runs in vLLM's worker."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skyrl_core.errors import SkyrlError

SHOWN = 5
"""Largest number of parameter names in a message."""


def load_into_worker(worker: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """``fill`` the model of a worker that ``collective_rpc`` passes."""
    fill(worker.model_runner.get_model(), worker.vllm_config, weights)


@torch.no_grad()
def fill(model: Any, config: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Fill every parameter of vLLM's model. vLLM fuses, pads and repacks the tensors as it does for files.

    Args:
        model: the model of a worker.
        config: vLLM's complete configuration.
        weights: complete tensors as a checkpoint has them, each valid until the next one is requested.

    Raises:
        SkyrlError: a tensor fits no parameter of the model, or a parameter got none or only a part.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

    wanted = set(_loaded_parameters(model))
    with set_current_vllm_config(config):
        if config.device_config.device_type == "cpu":
            _repack_experts(model)
        initialize_layerwise_reload(model)
        try:
            loaded = model.load_weights(_cloned(weights))
        except (ValueError, KeyError) as error:
            raise SkyrlError(
                f"vLLM's {type(model).__name__} has no parameter for a tensor of the policy: {error}"
            ) from error
        finally:
            empty, partly = _not_filled(model)
            finalize_layerwise_reload(model, config.model_config)
        for layer in empty:
            # A tied output embedding gets no tensor: on a CPU it would still use the packed copy of the old weights.
            layer.quant_method.process_weights_after_loading(layer)
    missing = sorted(wanted - loaded) or partly
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise SkyrlError(f"the policy's weights do not fill vLLM's {type(model).__name__}: {shown}")


def _loaded_parameters(model: nn.Module) -> Iterator[str]:
    """The names of all parameters except those that attention layers compute from others, such as DeepSeek's."""
    from vllm.model_executor.layers.attention import is_deferred_attention_layer

    derived = tuple(f"{name}." for name, layer in model.named_modules() if is_deferred_attention_layer(layer))
    yield from (name for name, _ in model.named_parameters() if not name.startswith(derived))


def _repack_experts(model: nn.Module) -> None:
    # On a CPU vLLM 0.32 packs fused experts only while it builds their kernel: with a kernel, an update would write
    # unpacked values into packed storage. Without one, vLLM builds it again when the layer is complete.
    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def _cloned(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    # vLLM keeps the tensors of a layer until it has all of them; the source's tensors are not valid that long.
    for name, tensor in weights:
        yield name, tensor.detach().clone()


def _not_filled(model: nn.Module) -> tuple[list[Any], list[str]]:
    """Layers that got no tensor, and the names of layers that got only some of the tensors they fuse."""
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    empty, partly = [], []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or not isinstance(getattr(layer, "quant_method", None), QuantizeMethodBase):
            continue
        if info.load_numel == 0:
            empty.append(layer)
        # A vocabulary may be padded, so it is never filled completely.
        elif info.load_numel < (info.load_numel_total or 0) and not isinstance(layer, VocabParallelEmbedding):
            partly.append(name)
    return empty, partly
