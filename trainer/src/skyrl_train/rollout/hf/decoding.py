"""Token by token with a KV cache: rows that are written, and the logits of what comes next in each."""

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
class ReadPrompts:
    """P prompts that the model has read once, left padded to W tokens: the last column of each is its end."""

    cache: DynamicCache  # keys and values of the prompts
    logits: Tensor  # float [P, V], of the first tokens
    mask: Tensor  # bool [P, W]: which columns are tokens

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, prompts: list[tuple[int, ...]], pad_id: int) -> "ReadPrompts":
        """The prompts, of at least one token each."""
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
def evaluated(model: nn.Module) -> Iterator[None]:
    """In evaluation mode: a module that computes activations again is in training mode, and has no cache there."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Decoding(Protocol):
    """B rows, each a prompt and what is drawn for it."""

    logits: Tensor
    """float [B, V], of the next token of each row."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, int64 [n], in this order."""

    def advance(self, tokens: Tensor) -> None:
        """One token more for each row, int64 [B]."""


class ModelDecoding:
    """Through the model as transformers has it."""

    def __init__(self, model: PreTrainedModel, prompts: ReadPrompts, prompt_of: Tensor, most: int) -> None:
        """``prompt_of`` int64 [B]: the prompt of each row. At most ``most`` tokens are added to it."""
        self._model, self._cache = model, prompts.cache
        select_rows(self._cache, prompt_of)
        self.logits = prompts.logits[prompt_of]
        mask = prompts.mask[prompt_of]
        self._filled = mask.shape[1]
        self._next_position = mask.sum(-1)
        self._mask = torch.cat([mask, mask.new_ones(len(mask), most)], dim=1).long()

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
    """Decode a few tokens through the model.

    Raises:
        SkyrlError: it has a cache of its own kind, or none.
    """
    prompt_of, drawn, kept = torch.tensor([[0, 1, 0], [1, 0, 2], [0, 1, 2]], device=model.device)
    try:
        with torch.no_grad(), evaluated(model):
            decoding = ModelDecoding(model, ReadPrompts.of(model, [(0, 1, 2), (1,)], 0), prompt_of, 2)
            decoding.advance(drawn)
            decoding.keep(kept[1:])
            decoding.advance(drawn[1:])
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise SkyrlError(
            f"the rollout engine hf cannot decode a model of type {model.config.model_type}: {error}\n"
            "  take rollout.engine: vllm or vllm_server, or another architecture"
        ) from error
