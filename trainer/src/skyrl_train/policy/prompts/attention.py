"""The attention function that replaces torch's in transformers, so that samples can share prompts.

Sequences that share prompts are one row (``shared_prompts``): each prompt attends to itself, each response to its
prompt and to itself, and nothing else is computed. All other sequences use torch's attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from skyrl_train.policy.prompts.packing import Packing

NAME = "sdpa"
"""transformers' name for torch's attention. Some models check for it, and under another name attend to all tokens."""


def register_attention() -> None:
    """Replace torch's attention in every model of this process; models with other attention keep it."""
    AttentionInterface.register(NAME, attention)


def uses_registered_attention(model: PreTrainedModel) -> bool:
    """Whether the model's layers call ``attention``."""
    return model.config._attn_implementation == NAME and ALL_ATTENTION_FUNCTIONS[NAME] is attention


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """The attention output of a layer, in the interface of transformers.

    Args:
        module: the layer.
        query: float [B, H, T, D].
        key: float [B, K, S, D]; H is a multiple of K.
        value: as key.
        attention_mask: bool, or float to add to the scores, [B, 1, T, S]; None means causal.
        packing: layout of the single row that holds all tokens; the mask then covers only its responses.
        settings: as for torch's attention in transformers.

    Returns:
        float [B, T, H, D], and None instead of the attention weights.
    """
    if packing is None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return attended
    queries, keys, values = (packing.unpacked(tensor[0].transpose(0, 1)) for tensor in (query, key, value))
    prompts = sdpa_attention_forward(module, queries.prompts, keys.prompts, values.prompts, None, **settings)[0]
    if packing.responses[1] == 0:  # transformers cannot handle a tensor without tokens
        return packing.packed(prompts, prompts.new_empty(packing.responses + prompts.shape[2:]))[None], None
    seen = [torch.cat([_expand_prompts(part.prompts, packing.prompt_of), part.responses], 2) for part in (keys, values)]
    responses = sdpa_attention_forward(module, queries.responses, *seen, attention_mask, **settings)[0]
    return packing.packed(prompts, responses)[None], None


def _expand_prompts(prompts: Tensor, prompt_of: Tensor) -> Tensor:
    """[P, ...] indexed by int64 [B] -> [B, ...], as an embedding, which sums gradients fast."""
    rows = nn.functional.embedding(prompt_of, prompts.flatten(1))
    return rows.view(len(prompt_of), *prompts.shape[1:])
