"""Decodes by calling the layers of Llama-like models directly, without the overhead of transformers.

One token of a small model is little work: on a CPU most of its time goes to masks, module calls and tensors that
transformers creates for every token. Here a layer is two norms, linear layers, attention and the feed-forward part, in
as few operations as possible. The keys and values of a prompt are stored once for all its samples, so that much less
memory is read.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import PreTrainedModel

from skyrl_train.policy.prompts.shared_prompts import has_batch_dependent_rotation
from skyrl_train.rollout.hf.decoding import Decoding, ModelDecoding, PrefilledPrompts, eval_mode
from skyrl_train.rollout.hf.kv_cache import BLOCK, PreallocatedLayer, kv_cache

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
"""Model types with the layers implemented below."""

MAX_SLOTS_PER_ROW = 2
"""Limit for grouping rows by prompt, where every group has as many slots as the largest one."""


class DirectDecoding:
    """Implements ``Decoding`` for B rows of P prompts, with H query heads and K key heads of size D."""

    def __init__(self, model: PreTrainedModel, prompts: PrefilledPrompts, prompt_of: Tensor) -> None:
        """``prompt_of`` int64 [B]: the prompt of each row."""
        base: Any = model.base_model
        self._embedding, self._rotary = base.embed_tokens, base.rotary_emb
        self._layers = [_Layer(layer) for layer in base.layers]
        self._norm, self._head = _Norm(base.norm), model.get_output_embeddings()
        self.logits = prompts.logits[prompt_of]
        self._next_position = prompts.mask.sum(-1)[prompt_of]
        self._longest = int(self._next_position.max())
        self._rotary_table: tuple[Tensor, Tensor] | None = None  # for positions from 0
        lowest = torch.finfo(self.logits.dtype).min
        self._mask = torch.zeros(prompts.mask.shape, dtype=self.logits.dtype).masked_fill_(~prompts.mask, lowest)
        self._prompts = [(layer.keys, layer.values) for layer in prompts.cache.layers]  # [P, K, W, D] each
        self._added = [PreallocatedLayer() for _ in self._layers]  # keys and values of sampled tokens
        self._prompt_of = prompt_of
        self._regroup()

    def keep(self, rows: Tensor) -> None:
        """See ``Decoding``."""
        for layer in self._added:
            layer.batch_select_indices(rows)
        self._next_position = self._next_position[rows]
        self._longest = int(self._next_position.max())
        left, self._prompt_of = self._prompt_of[rows].unique(return_inverse=True)
        if len(left) < len(self._mask):
            self._mask = self._mask[left]
            self._prompts = [(keys[left], values[left]) for keys, values in self._prompts]
        self._regroup()

    def _regroup(self) -> None:
        """Group the rows by prompt, once for all layers and tokens until rows leave."""
        counts = torch.bincount(self._prompt_of, minlength=len(self._mask))
        if len(counts) * int(counts.max()) > MAX_SLOTS_PER_ROW * len(self._prompt_of):
            # Some prompts have many rows and others few: copying the prompt for each row costs less than empty slots.
            self._mask = self._mask[self._prompt_of]
            self._prompts = [(keys[self._prompt_of], values[self._prompt_of]) for keys, values in self._prompts]
            self._prompt_of = torch.arange(len(self._prompt_of))
            counts = torch.ones_like(self._prompt_of)
        self._groups = _Groups(self._prompt_of, counts)
        heads = self._prompts[0][0].shape[1]
        self._prompt_mask = self._mask.repeat_interleave(heads, 0)[:, None]  # [P * K, 1, W], added to scores

    def advance(self, tokens: Tensor) -> None:
        """See ``Decoding``."""
        state = self._embedding(tokens)
        rotation = self._rotation(state)
        for number, layer in enumerate(self._layers):
            state = state + layer.attention_output(self._attention(number, layer.norm(state), rotation))
            rows = layer.second_norm(state)
            state = state + layer.down(silu(layer.gate(rows)) * layer.up(rows))
        self.logits = self._head(self._norm(state))
        self._next_position = self._next_position + 1
        self._longest += 1

    def _rotation(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for the next queries and keys, [B, H + K, D] each (arXiv 2104.09864, eq. 34).

        The first half of the sines is negated, for use with swapped halves. Both include the scale of the queries.
        """
        if self._rotary_table is None or self._longest >= len(self._rotary_table[0]):
            positions = torch.arange(self._longest + 1 + BLOCK)
            cosines, sines = (table[0][:, None] for table in self._rotary(state, positions[None]))
            sines[..., : sines.shape[-1] // 2].neg_()
            scales = self._layers[0].scales
            self._rotary_table = cosines * scales, sines * scales
        cosines, sines = (table.index_select(0, self._next_position) for table in self._rotary_table)
        return cosines, sines

    def _attention(self, number: int, rows: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        layer = self._layers[number]
        heads = layer.heads(rows)
        count, key_heads = len(layer.scales), layer.key_heads
        normed = layer.normalised_heads(heads[:, :count])
        torch.addcmul(normed * rotation[0], normed.roll(layer.size // 2, -1), rotation[1], out=heads[:, :count])
        query = heads[:, : count - key_heads].reshape(len(rows), key_heads, -1, layer.size)
        added = (heads[:, start : start + key_heads, None] for start in (count - key_heads, count))  # [B, K, 1, D] each
        keys, values = (tensor.flatten(0, 1) for tensor in self._added[number].update(*added))
        return self._attend(number, query, keys, values).view(len(rows), -1)

    def _attend(self, number: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query [B, K, H / K, D] attends to its prompt and to added tokens [B * K, t, D] -> [B * K, H / K, D]."""
        groups, query_rows = self._groups, query.flatten(0, 1)
        prompt_keys, prompt_values = (tensor.flatten(0, 1) for tensor in self._prompts[number])
        width = prompt_keys.shape[1]
        to_prompt = torch.baddbmm(self._prompt_mask, groups.group_rows(query), prompt_keys.transpose(1, 2))
        to_added = torch.bmm(query_rows, keys.transpose(1, 2))
        scores = torch.cat([groups.ungroup_rows(to_prompt, query.shape).flatten(0, 1), to_added], dim=-1)
        weights = torch.softmax(scores, dim=-1)
        of_prompt = torch.bmm(groups.group_rows(weights[..., :width].view(*query.shape[:3], width)), prompt_values)
        return torch.baddbmm(groups.ungroup_rows(of_prompt, query.shape).flatten(0, 1), weights[..., width:], values)


class _Layer:
    """The parts of a model layer that decoding uses."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.second_norm = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self._queries_keys_values = attention.q_proj, attention.k_proj, attention.v_proj
        self.attention_output = attention.o_proj
        self.gate, self.up, self.down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.size = attention.head_dim
        query_heads, self.key_heads = (part.out_features // self.size for part in (attention.q_proj, attention.k_proj))
        self.scales = torch.tensor([[attention.scaling]] * query_heads + [[1.0]] * self.key_heads)
        norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
        self._query_and_key_norms = [_Norm(norm) for norm in norms]

    def heads(self, rows: Tensor) -> Tensor:
        """[B, hidden] -> queries, keys and values, [B, H + K + K, D]."""
        return torch.cat([layer(rows) for layer in self._queries_keys_values], dim=-1).view(len(rows), -1, self.size)

    def normalised_heads(self, heads: Tensor) -> Tensor:
        """Queries and keys [B, H + K, D] after their norms, which only some families have."""
        if not self._query_and_key_norms:
            return heads
        parts = heads.split([heads.shape[1] - self.key_heads, self.key_heads], dim=1)
        return torch.cat([norm(part) for norm, part in zip(self._query_and_key_norms, parts, strict=True)], dim=1)


class _Norm:
    """An RMS norm of these families, in as few operations as possible."""

    def __init__(self, norm: Any) -> None:
        self._norm, self._weight = norm, norm.weight
        self._epsilon = norm.weight.new_tensor(norm.variance_epsilon)

    def __call__(self, state: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        if state.dtype != torch.float32:
            return self._norm(state)  # type: ignore[no-any-return]  # it computes in float32 for every type
        # Squaring the norm rounds once more than the mean of squares, which matters only for gradients.
        norms = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, norms, norms, value=1 / state.shape[-1]).rsqrt_()
        return (state * scale).mul_(self._weight)


class _Groups:
    """Arranges rows of the same prompt next to each other: G slots for each of P prompts."""

    def __init__(self, prompt_of: Tensor, counts: Tensor) -> None:
        """``prompt_of`` int64 [B]: the prompt of each row; ``counts`` int64 [P]: the rows of each prompt."""
        prompts, group = self._shape = len(counts), int(counts.max())
        order = prompt_of.argsort(stable=True)
        slot_in_group = torch.arange(len(order)) - (counts.cumsum(0) - counts)[prompt_of[order]]
        self._slot_of_row = torch.empty_like(prompt_of)
        self._slot_of_row[order] = prompt_of[order] * group + slot_in_group
        self._row_of_slot = torch.zeros(prompts * group, dtype=torch.long)  # an arbitrary row for empty slots
        rows = torch.arange(len(prompt_of))
        self._row_of_slot[self._slot_of_row] = rows
        self._already_grouped = len(self._row_of_slot) == len(rows) and bool((self._slot_of_row == rows).all())

    def group_rows(self, rows: Tensor) -> Tensor:
        """[B, K, n, x] -> [P * K, G * n, x]."""
        if not self._already_grouped:
            rows = rows.index_select(0, self._row_of_slot)
        _, heads, each, size = rows.shape
        prompts, group = self._shape
        return rows.view(prompts, group, heads, each, size).transpose(1, 2).reshape(prompts * heads, group * each, size)

    def ungroup_rows(self, grouped: Tensor, like: torch.Size) -> Tensor:
        """[P * K, G * n, x] -> [B, K, n, x], with K and n of this shape."""
        (prompts, group), (_, heads, each, _) = self._shape, like
        rows = grouped.view(prompts, heads, group, each, -1).transpose(1, 2).reshape(-1, heads, each, grouped.shape[-1])
        return rows if self._already_grouped else rows.index_select(0, self._slot_of_row)


def can_decode_directly(model: PreTrainedModel) -> bool:
    """Whether ``DirectDecoding`` supports the model: checks its configuration, then tries it."""
    config = model.config
    usual = config.model_type in FAMILIES and config.hidden_act in ("silu", "swish")
    if not usual or has_batch_dependent_rotation(model):
        return False
    full = all(type(layer) is PreallocatedLayer for layer in kv_cache(config).layers)
    exact = model.dtype in (torch.float32, torch.float64)  # other types would round scores before the softmax
    if not full or not exact or model.device.type != "cpu":
        return False
    with eval_mode(model):
        return _matches_model_decoding(model)


@torch.no_grad()
def _matches_model_decoding(model: PreTrainedModel) -> bool:
    prompt_of, tokens = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])
    read = [PrefilledPrompts.of(model, [(0, 1, 2), (1,)], 0) for _ in range(2)]  # decoding changes the cache
    both: tuple[Decoding, Decoding] = (
        DirectDecoding(model, read[0], prompt_of),
        ModelDecoding(model, read[1], prompt_of, 2),
    )
    for decoding in both:
        decoding.advance(tokens)
        decoding.keep(torch.tensor([1, 2]))
        decoding.advance(tokens[1:])
    direct, expected = (decoding.logits for decoding in both)
    # Half of the digits: rounding is far smaller, and the error of other layers far larger.
    return bool((direct - expected).abs().max() <= torch.finfo(model.dtype).eps ** 0.5 * expected.abs().max())
