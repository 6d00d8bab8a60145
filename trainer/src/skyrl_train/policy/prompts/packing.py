"""Packs prompts and responses into one row without padding, and unpacks them into padded tensors."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Unpacked(NamedTuple):
    """Attention heads of prompts and of responses, padded with zeros."""

    prompts: Tensor  # float [P, H, L, D]
    responses: Tensor  # float [B, H, T, D]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """N tokens in a row: P prompts, then B responses. L and T are the lengths of the longest of each."""

    offsets: Tensor  # int64 [P + B]: the first token of each prompt and response
    slot_of_token: Tensor  # int64 [N]: the index of each token in the flattened padded tensors
    token_of_slot: Tensor  # int64 [P * L + B * T]: the token at each padded index, N for padding
    prompt_of: Tensor  # int64 [B]: the prompt of each response
    prompt_lengths: Tensor  # int64 [B]: the length of that prompt
    prompts: tuple[int, int]  # P, L
    responses: tuple[int, int]  # B, T

    @classmethod
    def of(cls, prompt_lengths: Tensor, response_lengths: Tensor, prompt_of: Tensor) -> "Packing":
        """The layout for prompt_lengths int64 [P], at least 1, response_lengths [B] and prompt_of [B]."""
        lengths = torch.cat([prompt_lengths, response_lengths])
        offsets = lengths.cumsum(0) - lengths
        prompts = len(prompt_lengths), int(prompt_lengths.max())
        responses = len(response_lengths), int(response_lengths.max())
        widths = torch.cat(
            [torch.full_like(prompt_lengths, prompts[1]), torch.full_like(response_lengths, responses[1])]
        )
        first_slots = widths.cumsum(0) - widths
        numbers = torch.arange(int(lengths.sum()), device=lengths.device)
        slot_of_token = numbers + (first_slots - offsets).repeat_interleave(lengths)
        token_of_slot = torch.full((int(widths.sum()),), len(numbers), device=lengths.device)
        token_of_slot[slot_of_token] = numbers
        return cls(
            offsets=offsets,
            slot_of_token=slot_of_token,
            token_of_slot=token_of_slot,
            prompt_of=prompt_of,
            prompt_lengths=prompt_lengths[prompt_of],
            prompts=prompts,
            responses=responses,
        )

    def visible(self) -> Tensor:
        """bool [B, 1, T, L + T]: the tokens of prompt and response that each response token attends to."""
        device, (_, prompt_width), (count, width) = self.slot_of_token.device, self.prompts, self.responses
        prompt_columns, response_columns = torch.arange(prompt_width, device=device), torch.arange(width, device=device)
        of_prompt = (prompt_columns < self.prompt_lengths[:, None])[:, None].expand(-1, width, -1)
        # The padding of a response comes after its tokens, so the causal mask hides it.
        of_response = (response_columns <= response_columns[:, None]).expand(count, -1, -1)
        return torch.cat([of_prompt, of_response], dim=2)[:, None]

    def unpacked(self, tokens: Tensor) -> Unpacked:
        """[N, H, D] -> padded prompts and responses, heads before tokens."""
        padded = _gather_rows(tokens, self.token_of_slot, self.slot_of_token)
        count = self.prompts[0] * self.prompts[1]
        shapes = zip((padded[:count], padded[count:]), (self.prompts, self.responses), strict=True)
        return Unpacked(*(part.view(*shape, *tokens.shape[1:]).transpose(1, 2) for part, shape in shapes))

    def packed(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """[P, L, H, D] and [B, T, H, D] -> [N, H, D]."""
        padded = torch.cat([prompts.flatten(0, 1), responses.flatten(0, 1)])
        return _gather_rows(padded, self.slot_of_token, self.token_of_slot)


def _gather_rows(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    apply: Any = _GatherRows.apply  # torch leaves it untyped
    result: Tensor = apply(rows, index, inverse)
    return result


class _GatherRows(torch.autograd.Function):
    """Selects rows, each at most once, so the gradient is a selection too; torch adds it row by row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        """[n, ...] by int64 [m] -> [m, ...]. ``inverse``, int64 [n]: the new index of each row, m if dropped."""
        ctx.save_for_backward(inverse)
        return _gather(rows, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the rows."""
        (inverse,) = ctx.saved_tensors
        return _gather(gradient, inverse), None, None


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    missing = rows.new_zeros(1, *rows.shape[1:])
    return torch.cat([rows, missing]).index_select(0, index)
