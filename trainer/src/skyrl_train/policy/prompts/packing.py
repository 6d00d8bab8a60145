"""Tokens of prompts and of their responses in one row without padding, and the way to padded tensors and back."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Unpacked(NamedTuple):
    """Heads of prompts and of responses, padded with zeros."""

    prompts: Tensor  # float [P, H, L, D]
    responses: Tensor  # float [B, H, T, D]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """N tokens in a row: P prompts, then B responses. L and T are the longest of each."""

    offsets: Tensor  # int64 [P + B]: the first token of each
    tokens: Tensor  # int64 [N]: the place of each token in the padded tensors
    places: Tensor  # int64 [P * L + B * T]: the token at each place, N where there is none
    prompt_of: Tensor  # int64 [B]: the prompt of each response
    prompt_lengths: Tensor  # int64 [B]: of that prompt
    prompts: tuple[int, int]  # P, L
    responses: tuple[int, int]  # B, T

    @classmethod
    def of(cls, prompt_lengths: Tensor, response_lengths: Tensor, prompt_of: Tensor) -> "Packing":
        """int64 [P], at least 1; [B], at least 0; [B]."""
        lengths = torch.cat([prompt_lengths, response_lengths])
        offsets = lengths.cumsum(0) - lengths
        prompts = len(prompt_lengths), int(prompt_lengths.max())
        responses = len(response_lengths), int(response_lengths.max())
        widths = torch.cat(
            [torch.full_like(prompt_lengths, prompts[1]), torch.full_like(response_lengths, responses[1])]
        )
        first_places = widths.cumsum(0) - widths
        numbers = torch.arange(int(lengths.sum()), device=lengths.device)
        tokens = numbers + (first_places - offsets).repeat_interleave(lengths)
        places = torch.full((int(widths.sum()),), len(numbers), device=lengths.device)
        places[tokens] = numbers
        return cls(
            offsets=offsets,
            tokens=tokens,
            places=places,
            prompt_of=prompt_of,
            prompt_lengths=prompt_lengths[prompt_of],
            prompts=prompts,
            responses=responses,
        )

    def visible(self) -> Tensor:
        """bool [B, 1, T, L + T]: what a token of a response sees of its prompt and of its response."""
        device, (_, prompt_width), (count, width) = self.tokens.device, self.prompts, self.responses
        columns, own = torch.arange(prompt_width, device=device), torch.arange(width, device=device)
        of_prompt = (columns < self.prompt_lengths[:, None])[:, None].expand(-1, width, -1)
        # The padding of a response comes after its tokens: none of them sees it.
        of_response = (own <= own[:, None]).expand(count, -1, -1)
        return torch.cat([of_prompt, of_response], dim=2)[:, None]

    def unpacked(self, tokens: Tensor) -> Unpacked:
        """[N, H, D] -> padded, by heads."""
        padded = _picked(tokens, self.places, self.tokens)
        count = self.prompts[0] * self.prompts[1]
        shapes = zip((padded[:count], padded[count:]), (self.prompts, self.responses), strict=True)
        return Unpacked(*(part.view(*shape, *tokens.shape[1:]).transpose(1, 2) for part, shape in shapes))

    def packed(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """[P, L, H, D] and [B, T, H, D] -> [N, H, D]."""
        padded = torch.cat([prompts.flatten(0, 1), responses.flatten(0, 1)])
        return _picked(padded, self.tokens, self.places)


def _picked(rows: Tensor, picked: Tensor, back: Tensor) -> Tensor:
    apply: Any = _Picked.apply  # torch leaves it untyped
    result: Tensor = apply(rows, picked, back)
    return result


class _Picked(torch.autograd.Function):
    """Rows of a tensor, zeros where there is none. Each is picked once at most, and so its gradient is picked too:
    torch would add row by row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, picked: Tensor, back: Tensor) -> Tensor:
        """[n, ...] by int64 [m] -> [m, ...]. ``back``, int64 [n]: where each row went, m where it was left."""
        ctx.save_for_backward(back)
        return _pick(rows, picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """The other way."""
        (back,) = ctx.saved_tensors
        return _pick(slope, back), None, None


def _pick(rows: Tensor, picked: Tensor) -> Tensor:
    nothing = rows.new_zeros(1, *rows.shape[1:])
    return torch.cat([rows, nothing]).index_select(0, picked)
