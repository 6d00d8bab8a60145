"""Decodes with the layers of a Llama-like model directly, without what transformers does around them.

One token of a small model is little work: on a CPU most of its time goes to masks, modules and tensors that
transformers makes anew for every token. Here a layer is its two norms, its linear layers, attention and the
feed-forward part, in as few operations as possible. The keys and values of a prompt are stored once for all rows that
continue it, so that much less memory is read.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import PreTrainedModel

from skyrl_train.policy.prompts.shared_prompts import has_rotation_of_a_batch
from skyrl_train.rollout.hf.decoding import Decoding, ModelDecoding, ReadPrompts, evaluated
from skyrl_train.rollout.hf.kv_cache import BLOCK, RoomyLayer, kv_cache

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
"""Whose layers are the ones below."""

MOST_PLACES = 2
"""Times the rows: of the places for them, a group as large as the largest for each prompt."""


class DirectDecoding:
    """See ``Decoding``. B rows of P prompts; H heads of size D, K heads of keys."""

    def __init__(self, model: PreTrainedModel, prompts: ReadPrompts, prompt_of: Tensor) -> None:
        """``prompt_of`` int64 [B]: the prompt of each row."""
        base: Any = model.base_model
        self._embedding, self._rotary = base.embed_tokens, base.rotary_emb
        self._layers = [_Layer(layer) for layer in base.layers]
        self._norm, self._head = _Norm(base.norm), model.get_output_embeddings()
        self.logits = prompts.logits[prompt_of]
        self._next_position = prompts.mask.sum(-1)[prompt_of]
        self._longest = int(self._next_position.max())
        self._turns: tuple[Tensor, Tensor] | None = None  # of the positions from 0 on
        hidden = torch.finfo(self.logits.dtype).min
        self._mask = torch.zeros(prompts.mask.shape, dtype=self.logits.dtype).masked_fill_(~prompts.mask, hidden)
        self._prompts = [(layer.keys, layer.values) for layer in prompts.cache.layers]  # [P, K, W, D] each
        self._own = [RoomyLayer() for _ in self._layers]  # of the tokens that rows have added
        self._prompt_of = prompt_of
        self._group()

    def keep(self, rows: Tensor) -> None:
        """See ``Decoding``."""
        for own in self._own:
            own.batch_select_indices(rows)
        self._next_position = self._next_position[rows]
        self._longest = int(self._next_position.max())
        left, self._prompt_of = self._prompt_of[rows].unique(return_inverse=True)
        if len(left) < len(self._mask):
            self._mask = self._mask[left]
            self._prompts = [(keys[left], values[left]) for keys, values in self._prompts]
        self._group()

    def _group(self) -> None:
        """Once for all layers and tokens, until rows leave."""
        counts = torch.bincount(self._prompt_of, minlength=len(self._mask))
        if len(counts) * int(counts.max()) > MOST_PLACES * len(self._prompt_of):
            # One prompt has many rows and others few: a copy of its prompt for each row costs less than empty places.
            self._mask = self._mask[self._prompt_of]
            self._prompts = [(keys[self._prompt_of], values[self._prompt_of]) for keys, values in self._prompts]
            self._prompt_of = torch.arange(len(self._prompt_of))
            counts = torch.ones_like(self._prompt_of)
        self._groups = _Groups(self._prompt_of, counts)
        heads = self._prompts[0][0].shape[1]
        self._hidden = self._mask.repeat_interleave(heads, 0)[:, None]  # [P * K, 1, W], added to scores

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
        """Of queries and keys of the next tokens, twice [B, H + K, D]: cosines, and sines of halves that change places.

        Queries are scaled with it (arXiv 2104.09864, equation 34).
        """
        if self._turns is None or self._longest >= len(self._turns[0]):
            positions = torch.arange(self._longest + 1 + BLOCK)
            cosines, sines = (turns[0][:, None] for turns in self._rotary(state, positions[None]))
            sines[..., : sines.shape[-1] // 2].neg_()
            scales = self._layers[0].scales
            self._turns = cosines * scales, sines * scales
        cosines, sines = (turns.index_select(0, self._next_position) for turns in self._turns)
        return cosines, sines

    def _attention(self, number: int, rows: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        layer = self._layers[number]
        heads = layer.heads(rows)
        count, of_keys = len(layer.scales), layer.key_heads
        turned = layer.normed_heads(heads[:, :count])
        torch.addcmul(turned * rotation[0], turned.roll(layer.size // 2, -1), rotation[1], out=heads[:, :count])
        query = heads[:, : count - of_keys].reshape(len(rows), of_keys, -1, layer.size)
        added = (heads[:, start : start + of_keys, None] for start in (count - of_keys, count))  # [B, K, 1, D] each
        keys, values = (tensor.flatten(0, 1) for tensor in self._own[number].update(*added))
        return self._attend(number, query, keys, values).view(len(rows), -1)

    def _attend(self, number: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, K, H / K, D] to the prompt and to the own tokens, twice [B * K, t, D] -> [B * K, H / K, D]."""
        groups, query_rows = self._groups, query.flatten(0, 1)
        prompt_keys, prompt_values = (tensor.flatten(0, 1) for tensor in self._prompts[number])
        width = prompt_keys.shape[1]
        to_prompt = torch.baddbmm(self._hidden, groups.together(query), prompt_keys.transpose(1, 2))
        to_own = torch.bmm(query_rows, keys.transpose(1, 2))
        scores = torch.cat([groups.apart(to_prompt, query.shape).flatten(0, 1), to_own], dim=-1)
        weights = torch.softmax(scores, dim=-1)
        of_prompt = torch.bmm(groups.together(weights[..., :width].view(*query.shape[:3], width)), prompt_values)
        return torch.baddbmm(groups.apart(of_prompt, query.shape).flatten(0, 1), weights[..., width:], values)


class _Layer:
    """What decoding needs of a layer of the model."""

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
        self._head_norms = [_Norm(norm) for norm in norms]

    def heads(self, rows: Tensor) -> Tensor:
        """[B, hidden] -> queries, keys and values, [B, H + K + K, D]."""
        return torch.cat([layer(rows) for layer in self._queries_keys_values], dim=-1).view(len(rows), -1, self.size)

    def normed_heads(self, heads: Tensor) -> Tensor:
        """[B, H + K, D], as they are in most families."""
        if not self._head_norms:
            return heads
        parts = heads.split([heads.shape[1] - self.key_heads, self.key_heads], dim=1)
        return torch.cat([norm(part) for norm, part in zip(self._head_norms, parts, strict=True)], dim=1)


class _Norm:
    """An RMS norm of these families, in as few operations as there are."""

    def __init__(self, norm: Any) -> None:
        self._norm, self._weight = norm, norm.weight
        self._epsilon = norm.weight.new_tensor(norm.variance_epsilon)

    def __call__(self, state: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        if state.dtype != torch.float32:
            return self._norm(state)  # type: ignore[no-any-return]  # it computes in float32 whatever the type is
        # The square of a root rounds once more than the mean of squares, which matters only for a gradient.
        norms = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, norms, norms, value=1 / state.shape[-1]).rsqrt_()
        return (state * scale).mul_(self._weight)


class _Groups:
    """The rows that follow the same prompt, next to each other: G places for each of P prompts."""

    def __init__(self, prompt_of: Tensor, counts: Tensor) -> None:
        """``prompt_of`` int64 [B]; ``counts`` int64 [P], the rows of each."""
        prompts, group = self._shape = len(counts), int(counts.max())
        order = prompt_of.argsort(stable=True)
        place_in_group = torch.arange(len(order)) - (counts.cumsum(0) - counts)[prompt_of[order]]
        self._place_of = torch.empty_like(prompt_of)
        self._place_of[order] = prompt_of[order] * group + place_in_group
        self._row_at = torch.zeros(prompts * group, dtype=torch.long)  # any row where there is none
        rows = torch.arange(len(prompt_of))
        self._row_at[self._place_of] = rows
        self._as_they_are = len(self._row_at) == len(rows) and bool((self._place_of == rows).all())

    def together(self, rows: Tensor) -> Tensor:
        """[B, K, n, x] -> [P * K, G * n, x]."""
        if not self._as_they_are:
            rows = rows.index_select(0, self._row_at)
        _, heads, each, size = rows.shape
        prompts, group = self._shape
        return rows.view(prompts, group, heads, each, size).transpose(1, 2).reshape(prompts * heads, group * each, size)

    def apart(self, grouped: Tensor, like: torch.Size) -> Tensor:
        """[P * K, G * n, x] -> [B, K, n, x], with K and n of this shape."""
        (prompts, group), (_, heads, each, _) = self._shape, like
        rows = grouped.view(prompts, heads, group, each, -1).transpose(1, 2).reshape(-1, heads, each, grouped.shape[-1])
        return rows if self._as_they_are else rows.index_select(0, self._place_of)


def can_decode_directly(model: PreTrainedModel) -> bool:
    """Whether the layers are the ones that ``DirectDecoding`` knows: of a known family, then tried."""
    config = model.config
    usual = config.model_type in FAMILIES and config.hidden_act in ("silu", "swish")
    if not usual or has_rotation_of_a_batch(model):
        return False
    full = all(type(layer) is RoomyLayer for layer in kv_cache(config).layers)
    exact = model.dtype in (torch.float32, torch.float64)  # others would round scores before the softmax
    if not full or not exact or model.device.type != "cpu":
        return False
    with evaluated(model):
        return _agrees(model)


@torch.no_grad()
def _agrees(model: PreTrainedModel) -> bool:
    prompt_of, tokens = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])
    read = [ReadPrompts.of(model, [(0, 1, 2), (1,)], 0) for _ in range(2)]  # each cache is used up
    both: tuple[Decoding, Decoding] = (
        DirectDecoding(model, read[0], prompt_of),
        ModelDecoding(model, read[1], prompt_of, 2),
    )
    for decoding in both:
        decoding.advance(tokens)
        decoding.keep(torch.tensor([1, 2]))
        decoding.advance(tokens[1:])
    direct, expected = (decoding.logits for decoding in both)
    # Half of the digits: rounding is far below, and other layers far above.
    return bool((direct - expected).abs().max() <= torch.finfo(model.dtype).eps ** 0.5 * expected.abs().max())
