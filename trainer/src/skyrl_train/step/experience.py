"""The samples of a step as tensors, right padded: the data of a policy update on one rank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from skyrl_core.errors import SkyrlError
from skyrl_train.policy.log_probs.kept_tokens import KeptTokens
from skyrl_train.policy.policy import Sequences
from skyrl_train.rollout.rollout_engine import Sample


@dataclass(frozen=True, kw_only=True)
class Experience:
    """N sequences of one rank. Index t of every [N, T] tensor describes response token t."""

    input_ids: Tensor  # int64 [N, S]: prompt, response, padding
    lengths: Tensor  # int64 [N]: prompt and response together
    response_start: Tensor  # int64 [N]
    mask: Tensor  # bool [N, T]: True for response tokens, False for padding
    rollout_log_probs: Tensor  # float32 [N, T]
    advantages: Tensor  # float32 [N, T]
    rewards: Tensor  # float32 [N]
    groups: Tensor  # int64 [N]: number of the prompt within the step, the same on all ranks
    old_log_probs: Tensor | None = None  # float32 [N, T]
    ref_log_probs: Tensor | None = None  # float32 [N, T]
    kept: KeptTokens | None = None  # counts [N, T]: the entries that the samples were drawn from; None means all
    reward_parts: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # several rewards by name: float32 [N], NaN if none

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def sequences(self) -> Sequences:
        """The tensors that the policy reads."""
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return Sequences(
            input_ids=self.input_ids,
            attention_mask=positions < self.lengths[:, None],
            response_start=self.response_start,
            response_mask=self.mask,
            kept=self.kept,
        )

    def select(self, rows: Tensor) -> "Experience":
        """These rows, without padding that no row needs."""
        chosen = self._map(lambda _, tensor: tensor[rows])
        if not len(rows):
            return chosen
        width = int(chosen.lengths.max())
        tokens = int((chosen.lengths - chosen.response_start).max())

        def trim(name: str, tensor: Any) -> Any:
            return tensor if tensor.ndim == 1 else tensor[:, : width if name == "input_ids" else tokens]

        return chosen._map(trim)

    @classmethod
    def build(
        cls,
        prompts: Sequence[Sequence[int]],
        samples: Sequence[Sample],
        groups: Sequence[int],
        *,
        pad_id: int,
        device: torch.device,
    ) -> "Experience":
        """Pad and stack prompts and samples, one prompt for each sample. Rewards and advantages are zero."""
        count = len(samples)
        starts = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
        sizes = torch.tensor([len(sample.token_ids) for sample in samples], dtype=torch.long)
        width, tokens = (int((starts + sizes).max()), int(sizes.max())) if count else (0, 0)
        sequences = [(*prompt, *sample.token_ids) for prompt, sample in zip(prompts, samples, strict=True)]
        ids = [(*sequence, *[pad_id] * (width - len(sequence))) for sequence in sequences]
        log_probs = [(*sample.log_probs, *[0.0] * (tokens - len(sample.log_probs))) for sample in samples]
        experience = cls(
            input_ids=torch.tensor(ids, dtype=torch.long).reshape(count, width),
            lengths=starts + sizes,
            response_start=starts,
            mask=torch.arange(tokens) < sizes[:, None],
            rollout_log_probs=torch.tensor(log_probs, dtype=torch.float32).reshape(count, tokens),
            advantages=torch.zeros(count, tokens),
            rewards=torch.zeros(count),
            groups=torch.tensor(groups, dtype=torch.long),
            kept=_kept_tokens(samples, tokens),
        )
        return experience.to(device)

    def to(self, device: torch.device) -> "Experience":
        """A copy on another device."""
        return self._map(lambda _, tensor: tensor.to(device))

    def _map(self, change: Callable[[str, Any], Any]) -> "Experience":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        parts: Mapping[str, Tensor] = values.pop("reward_parts")
        changed: dict[str, Any] = {n: None if t is None else change(n, t) for n, t in values.items()}
        return replace(self, **changed, reward_parts={n: change(n, t) for n, t in parts.items()})


def _kept_tokens(samples: Sequence[Sample], width: int) -> KeptTokens | None:
    sets = [sample.kept for sample in samples if sample.kept is not None]
    if not sets:
        return None
    if [len(kept) for kept in sets] == [len(sample.token_ids) for sample in samples]:
        kept = KeptTokens.of(sets, width)
        tokens = [(*sample.token_ids, *[-1] * (width - len(sample.token_ids))) for sample in samples]
        if kept.include(torch.tensor(tokens)):
            return kept
    raise SkyrlError(
        "the rollout engine must return, for each token of each sample, the tokens that it was drawn from, itself "
        "included (Sample.kept): fix the engine, or set rollout.top_p to 1, top_k to null and min_p to 0"
    )


def filler(pad_id: int, device: torch.device) -> Experience:
    """One masked sequence of two pad tokens, for a rank with fewer micro-batches than another."""
    experience = Experience.build(
        [[pad_id]],
        [Sample(token_ids=(pad_id,), log_probs=(0.0,), finished=True, policy_version=0)],
        [0],
        pad_id=pad_id,
        device=device,
    )
    # A loss may declare any input, and a filler must have it.
    zeros = torch.zeros_like(experience.advantages)
    return replace(experience, mask=torch.zeros_like(experience.mask), old_log_probs=zeros, ref_log_probs=zeros)
