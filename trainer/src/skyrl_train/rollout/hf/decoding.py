"""Token-by-token decoding with a KV cache: the protocol, and decoding with the model's forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.hf.kv_cache import kv_cache, select_rows


@dataclass(frozen=True, kw_only=True)
class PrefilledPrompts:
    """P prefilled prompts, left padded to W tokens, so that the last column holds the last token of each."""

    cache: DynamicCache  # keys and values of the prompts
    logits: Tensor  # float [P, V], of the first response tokens
    mask: Tensor  # bool [P, W]: False for padding

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, prompts: list[tuple[int, ...]], pad_id: int) -> "PrefilledPrompts":
        """Prefill these prompts, which have at least one token each."""
        device, width = model.device, max(map(len, prompts))
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        cache = kv_cache(model.config)
        output = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cls(cache=cache, logits=output.logits[:, -1], mask=mask)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A context with all modules in eval mode; modules that recompute activations cache nothing otherwise."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Decoding(Protocol):
    """B rows, each a prompt followed by the tokens sampled for it."""

    logits: Tensor
    """float [B, V], of the next token of each row."""

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, int64 [n], in this order."""

    def advance(self, tokens: Tensor) -> None:
        """Append a token to each row, int64 [B], and compute the logits of the next one."""


class ModelDecoding:
    """Decoding through the forward pass of the transformers model."""

    def __init__(self, model: PreTrainedModel, prompts: PrefilledPrompts, prompt_of: Tensor, max_tokens: int) -> None:
        """``prompt_of`` int64 [B]: the prompt of each row; ``advance`` may be called ``max_tokens`` times."""
        self._model, self._cache = model, prompts.cache
        select_rows(self._cache, prompt_of)
        self.logits = prompts.logits[prompt_of]
        mask = prompts.mask[prompt_of]
        self._filled = mask.shape[1]
        self._next_position = mask.sum(-1)
        self._mask = torch.cat([mask, mask.new_ones(len(mask), max_tokens)], dim=1).long()

    def keep(self, rows: Tensor) -> None:
        """See ``Decoding``."""
        select_rows(self._cache, rows)
        self._mask, self._next_position = self._mask[rows], self._next_position[rows]

    def advance(self, tokens: Tensor) -> None:
        """See ``Decoding``."""
        self._filled += 1
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask[:, : self._filled],
            position_ids=self._next_position[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_position = self._next_position + 1
        self.logits = output.logits[:, -1]


def check_decoding(model: PreTrainedModel) -> None:
    """Decode a few tokens through the model, to fail at start-up if the engine cannot use its cache.

    Raises:
        SkyrlError: the model has no KV cache, or an unusual one.
    """
    prompt_of, tokens, kept = torch.tensor([[0, 1, 0], [1, 0, 2], [0, 1, 2]], device=model.device)
    try:
        with torch.no_grad(), eval_mode(model):
            decoding = ModelDecoding(model, PrefilledPrompts.of(model, [(0, 1, 2), (1,)], 0), prompt_of, 2)
            decoding.advance(tokens)
            decoding.keep(kept[1:])
            decoding.advance(tokens[1:])
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise SkyrlError(
            f"the rollout engine hf cannot decode a model of type {model.config.model_type}: {error}\n"
            "  set rollout.engine to vllm or vllm_server, or choose another architecture"
        ) from error
