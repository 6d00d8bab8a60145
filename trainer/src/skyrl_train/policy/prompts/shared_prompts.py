"""A batch layout in which each prompt is computed once for all its responses, without padding.

The tokens of a batch are one row: each prompt once, then all responses. A response token attends to its prompt and to
earlier tokens of its response (``attention``); its position id is that of the plain layout. A causal model with full
attention therefore gives every token the same hidden state as one row per sequence does, and the same gradients: that
of a prompt is the sum over its responses. The last token of each response predicts nothing and is left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_train.policy.prompts.attention import uses_registered_attention
from skyrl_train.policy.prompts.packing import Packing


@dataclass(frozen=True, kw_only=True)
class SharedPrompts:
    """A batch of B sequences as one row of N tokens."""

    input_ids: Tensor  # int64 [1, N]
    position_ids: Tensor  # int64 [1, N]
    packing: Packing
    predictors: Tensor  # int64 [B, T]: the token before each response token; arbitrary beyond the end of a response

    @classmethod
    def of(cls, input_ids: Tensor, lengths: Tensor, response_start: Tensor, num_tokens: int) -> "SharedPrompts":
        """The layout of a batch.

        Args:
            input_ids: int64 [B, S], right padded.
            lengths: int64 [B], of prompt and response together.
            response_start: int64 [B], at least 1.
            num_tokens: T, the length of the longest response.
        """
        firsts, prompt_of = _distinct_prompts(input_ids, response_start)
        prompts, responses = response_start[firsts], (lengths - response_start - 1).clamp(min=0)
        counts = torch.cat([prompts, responses])
        packing = Packing.of(prompts, responses, prompt_of)
        sequences = torch.cat([firsts, torch.arange(len(lengths), device=lengths.device)])
        starts = torch.cat([torch.zeros_like(firsts), response_start])
        position = torch.arange(int(counts.sum()), device=lengths.device)
        position = position + (starts - packing.offsets).repeat_interleave(counts)
        ids = input_ids[sequences.repeat_interleave(counts), position]
        return cls(
            input_ids=ids[None],
            position_ids=position[None],
            packing=packing,
            predictors=_predictors(packing, prompts, responses, num_tokens),
        )

    def cost(self, pairs_per_token: float) -> float:
        """The cost of the layers, in attention pairs.

        It exceeds the plain layout's if padding long prompts and other prompts' long responses outweighs the sharing.
        """
        (prompts, width), (responses, length) = self.packing.prompts, self.packing.responses
        pairs = prompts * width**2 + responses * length * (width + length)
        return pairs_per_token * self.input_ids.numel() + pairs


def _distinct_prompts(input_ids: Tensor, response_start: Tensor) -> tuple[Tensor, Tensor]:
    """The first sequence with each distinct prompt, int64 [P], and the prompt of each sequence, int64 [B]."""
    rows = input_ids.cpu().numpy()
    number: dict[bytes, int] = {}
    firsts: list[int] = []
    prompt_of: list[int] = []
    for sequence, start in enumerate(response_start.tolist()):
        prompt = number.setdefault(rows[sequence, :start].tobytes(), len(number))
        if prompt == len(firsts):
            firsts.append(sequence)
        prompt_of.append(prompt)
    device = input_ids.device
    return torch.tensor(firsts, device=device), torch.tensor(prompt_of, device=device)


def _predictors(packing: Packing, prompt_lengths: Tensor, computed: Tensor, num_tokens: int) -> Tensor:
    last_of_prompt = (packing.offsets[: len(prompt_lengths)] + prompt_lengths - 1)[packing.prompt_of]
    before = torch.arange(max(num_tokens - 1, 0), device=computed.device)
    of_response = packing.offsets[len(prompt_lengths) :, None] + before
    predictors = torch.cat([last_of_prompt[:, None], of_response.where(before < computed[:, None], 0)], dim=1)
    return predictors[:, :num_tokens]


def pairs_per_token(model: PreTrainedModel) -> float:
    """The cost of one token in the layers' weights, in attention pairs. The model must be complete."""
    config = model.config.get_text_config()
    embedding = sum(parameter.numel() for parameter in model.get_input_embeddings().parameters())
    weights = sum(parameter.numel() for parameter in model.base_model.parameters()) - embedding
    # In every layer, a pair takes one multiplication per element of the query and one per element of the value.
    return float(weights / (2 * config.hidden_size * config.num_hidden_layers))


def plain_cost(input_ids: Tensor, pairs_per_token: float) -> float:
    """The cost of the layers with one padded row per sequence, in attention pairs."""
    count, width = input_ids.shape
    return pairs_per_token * count * width + count * width**2


def hidden_states(model: PreTrainedModel, layout: SharedPrompts) -> Tensor:
    """float [N, H]: the hidden state of every token of the row."""
    output = model.base_model(
        input_ids=layout.input_ids,
        attention_mask=_mask(layout.packing, next(model.parameters()).dtype),
        position_ids=layout.position_ids,
        use_cache=False,
        packing=layout.packing,
    )
    states: Tensor = output.last_hidden_state
    return states[0]


def _mask(packing: Packing, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to scores, a form that transformers passes to all layers unchanged."""
    visible = packing.visible()
    hidden = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return hidden.masked_fill_(visible, 0.0)


def can_share_prompts(model: PreTrainedModel) -> bool:
    """Whether the shared layout gives the same hidden states: checks the configuration, then tries it."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        windowed = getattr(config, "sliding_window", None) is not None
    else:
        windowed = any(kind != "full_attention" for kind in kinds)
    if windowed or not uses_registered_attention(model) or has_batch_dependent_rotation(model):
        return False
    try:
        return _matches_plain_pass(model)
    except (IndexError, TypeError, ValueError, RuntimeError):  # it accepts no position ids, or does not pass packing on
        return False


def has_batch_dependent_rotation(model: PreTrainedModel) -> bool:
    """Whether a token's rotary position depends on the longest sequence of its batch."""
    settings = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [part.get("rope_type") for part in (settings, *settings.values()) if isinstance(part, dict)]
    return any(kind in ("dynamic", "longrope") for kind in kinds)


@torch.no_grad()
def _matches_plain_pass(model: PreTrainedModel) -> bool:
    ids = torch.arange(16, device=model.device).reshape(2, 8).remainder(model.config.get_text_config().vocab_size)
    ids[1, :4] = ids[0, :4]
    starts, lengths = torch.tensor([4, 4], device=model.device), torch.tensor([8, 8], device=model.device)
    layout = SharedPrompts.of(ids, lengths, starts, 4)
    expected = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, 3:7]
    difference = (hidden_states(model, layout)[layout.predictors] - expected).abs().max()
    # Half of the digits: rounding is far smaller, and the error of a model that ignores the layout far larger.
    return bool(difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max())
