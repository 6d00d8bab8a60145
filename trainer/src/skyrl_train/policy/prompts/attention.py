"""The attention that the trainer's models use in every layer, in the place of torch's.

Two things are its own. Sequences that share prompts are one row (``shared_prompts``): each prompt attends to itself,
each response to its prompt and to itself, and nothing else is computed. And where a CPU attends with few queries, as to
a cache, three plain operations take half the time of torch's kernel, which is made for many.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from skyrl_train.policy.prompts.packing import Packing

NAME = "sdpa"
"""Torch's, in transformers. Some models ask whether their attention has this name, and compute other things if not."""

LARGEST_SCORES = 2**21
"""Numbers that plain operations may keep for the backward pass of a layer: 8 MiB in float32."""

EXACT = (torch.float32, torch.float64)
"""In any other type plain operations would round the scores; torch's kernel keeps them in float32."""

UNUSUAL = ("softcap", "position_bias", "s_aux")
"""Settings of some models that plain operations do not know."""


def use_own_attention() -> None:
    """Instead of torch's, in every model of this process. One with any other attention keeps it."""
    AttentionInterface.register(NAME, attention)


def has_own_attention(model: PreTrainedModel) -> bool:
    """Whether its layers call ``attention``."""
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
    """What a layer calls.

    Args:
        module: the layer's.
        query: float [B, H, T, D].
        key: float [B, K, S, D]; H is a multiple of K.
        value: as key.
        attention_mask: bool, or float that is added, [B, 1, T, S]; or None: causal.
        packing: of the one row that all tokens are in. The mask is that of its responses then.
        settings: as for torch's attention in transformers.

    Returns:
        float [B, T, H, D], and no weights.
    """
    if packing is None:
        # As torch's is: some models take a view of it.
        return _attend(module, query, key, value, attention_mask, settings).contiguous(), None
    queries, keys, values = (packing.unpacked(tensor[0].transpose(0, 1)) for tensor in (query, key, value))
    prompts = _attend(module, queries.prompts, keys.prompts, values.prompts, None, settings)
    seen = [torch.cat([_repeated(part.prompts, packing.prompt_of), part.responses], 2) for part in (keys, values)]
    responses = _attend(module, queries.responses, seen[0], seen[1], attention_mask, settings)
    return packing.packed(prompts, responses)[None], None


def _repeated(prompts: Tensor, prompt_of: Tensor) -> Tensor:
    """[P, ...] by int64 [B] -> [B, ...]: an embedding is fast at adding up gradients."""
    rows = nn.functional.embedding(prompt_of, prompts.flatten(1))
    return rows.view(len(prompt_of), *prompts.shape[1:])


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, settings: dict[str, Any]
) -> Tensor:
    rows, heads, tokens, _ = query.shape
    few = rows * heads * tokens * key.shape[2] <= LARGEST_SCORES and (mask is not None or tokens == 1)
    usual = not settings.get("dropout") and all(settings.get(name) is None for name in UNUSUAL)
    if query.device.type == "cpu" and query.dtype in EXACT and few and usual:
        return _plainly(query, key, value, mask, settings.get("scaling"))
    attended: Tensor = sdpa_attention_forward(module, query, key, value, mask, **settings)[0]
    return attended


def _plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """The formula. All queries of a head of the keys, H / K · T, are rows of one product."""
    rows, heads, tokens, size = query.shape
    groups = rows * key.shape[1]
    query = query * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(query.reshape(groups, -1, size), key.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        by_head = scores.view(rows, heads, tokens, key.shape[2])
        # Padding may see nothing at all, and with infinity it would be no number, which others multiply by zero.
        hidden = torch.finfo(scores.dtype).min
        scores = by_head.masked_fill_(~mask, hidden) if mask.dtype == torch.bool else by_head.add_(mask)
    weights = torch.softmax(scores.view(groups, -1, key.shape[2]), dim=-1)
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, heads, tokens, value.shape[3]).transpose(1, 2)
