"""Weights into vLLM's model while it runs. Imports vLLM, so it runs where vLLM does: in its worker."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skyrl_core.errors import SkyrlError

SHOWN = 5
"""Names in a message."""


def take_over(worker: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """``fill`` the model of vLLM's worker, as ``collective_rpc`` passes it."""
    fill(worker.model_runner.get_model(), worker.vllm_config, weights)


@torch.no_grad()
def fill(model: Any, config: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Fill every parameter of vLLM's model. vLLM fuses, pads and repacks them as it does with files.

    Args:
        model: that of a worker.
        config: vLLM's whole configuration.
        weights: whole tensors under the names that transformers uses, each valid until the next one is asked for.

    Raises:
        SkyrlError: a tensor has no place in the model, or a parameter got none or only a part.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

    wanted = {name for name, _ in model.named_parameters()}
    with set_current_vllm_config(config):
        initialize_layerwise_reload(model)
        try:
            loaded = model.load_weights(_kept(weights))
        except (ValueError, KeyError) as error:
            raise SkyrlError(
                f"vLLM's {type(model).__name__} has no place for a tensor of the policy: {error}"
            ) from error
        finally:
            empty, partly = _not_filled(model)
            finalize_layerwise_reload(model, config.model_config)
        for layer in empty:
            # An output embedding that is tied gets no tensor of its own: on a CPU it would compute with the packed copy
            # that it made of the old weights.
            layer.quant_method.process_weights_after_loading(layer)
    missing = sorted(wanted - loaded) or partly
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise SkyrlError(f"the policy's weights do not fill vLLM's {type(model).__name__}: {shown}")


def _kept(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    # vLLM holds on to the tensors of a layer until all of them are there; the source's own are gone by then.
    for name, tensor in weights:
        yield name, tensor.detach().clone()


def _not_filled(model: nn.Module) -> tuple[list[Any], list[str]]:
    """Layers with weights that got no tensor, and the names of those that got some of the tensors they are fused of."""
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
        # A vocabulary may be padded: it is never filled to the end.
        elif info.load_numel < (info.load_numel_total or 0) and not isinstance(layer, VocabParallelEmbedding):
            partly.append(name)
    return empty, partly
