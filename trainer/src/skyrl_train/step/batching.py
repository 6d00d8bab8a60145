"""Splits a rank's experience into minibatches and micro-batches, the same number on every rank."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skyrl_train.policy.policy import Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.experience import Experience, filler


@dataclass(frozen=True, kw_only=True)
class MicroBatchSize:
    """How much goes through the model at one time: ``tokens``, padding included, where given, else ``sequences``.

    ``cost`` says how much a model computes for some sequences, where that depends on who is among them: one that
    computes a prompt once for all of its samples.
    """

    sequences: int
    tokens: int | None = None
    cost: Callable[[Sequences], float] | None = None

    def split(self, experience: Experience, rows: Tensor) -> list[Tensor]:
        """The rows, int64 [n], of each micro-batch, int64 [B] each: similar lengths together, for less padding.

        Or the samples of a prompt together, where that costs less. A sequence that is longer than ``tokens`` has a
        micro-batch of its own.
        """
        if not len(rows):
            return []
        lengths, groups = experience.lengths[rows], experience.groups[rows]
        parts = self._cut(rows, lengths, lengths.argsort(stable=True))
        if self.cost is None or len(parts) == 1:
            return parts
        together = self._cut(rows, lengths, _groups_together(lengths, groups))
        return min(parts, together, key=lambda parts: self._cost(experience, parts))

    def _cut(self, rows: Tensor, lengths: Tensor, order: Tensor) -> list[Tensor]:
        if self.tokens is None:
            return list(rows[order].split(self.sequences))
        sizes: list[int] = []
        longest = 0
        for length in lengths[order].tolist():
            longest = max(longest, length)
            if sizes and (sizes[-1] + 1) * longest <= self.tokens:
                sizes[-1] += 1
            else:
                sizes.append(1)
                longest = length
        return list(rows[order].split(sizes))

    def _cost(self, experience: Experience, parts: list[Tensor]) -> float:
        assert self.cost is not None
        return sum(self.cost(experience.select(part).sequences) for part in parts)


def _groups_together(lengths: Tensor, groups: Tensor) -> Tensor:
    """The order in which groups follow each other by their longest sequence, and each by lengths: int64 [n]."""
    longest = torch.zeros(int(groups.max()) + 1, dtype=lengths.dtype, device=lengths.device)
    longest = longest.scatter_reduce(0, groups, lengths, "amax")[groups]
    keys = [key.tolist() for key in (longest, groups, lengths)]
    return torch.tensor(sorted(range(len(lengths)), key=lambda row: [key[row] for key in keys]), device=lengths.device)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of a minibatch; a filler has none and holds one masked sequence, so that ranks stay in step."""

    rows: Tensor  # int64 [B], into the minibatch
    experience: Experience

    @property
    def is_filler(self) -> bool:
        return len(self.rows) == 0


def micro_batches(
    minibatch: Experience,
    size: MicroBatchSize,
    ranks: Ranks,
    *,
    pad_id: int,
    rows: Tensor | None = None,
    at_least: int = 0,
) -> list[MicroBatch]:
    """Micro-batches of at most this size, filled up to the largest number that any rank has. Collective.

    Args:
        minibatch: of this rank.
        size: of a micro-batch.
        ranks: all of them get the same number.
        pad_id: token of fillers.
        rows: int64 [n], those of the minibatch that are taken; None takes all.
        at_least: so many micro-batches, even if no rank has a row.
    """
    rows = torch.arange(len(minibatch), device=minibatch.lengths.device) if rows is None else rows
    own = [MicroBatch(rows=part, experience=minibatch.select(part)) for part in size.split(minibatch, rows)]
    wanted = max(int(ranks.max(torch.tensor([len(own)]))), at_least)
    nothing = MicroBatch(
        rows=torch.empty(0, dtype=torch.long, device=ranks.device), experience=filler(pad_id, ranks.device)
    )
    return own + [nothing] * (wanted - len(own))


def minibatch_of_group(group: int, num_groups: int, minibatches: int) -> int:
    """Which minibatch a prompt of the step belongs to: consecutive prompts, the same on any number of ranks."""
    return group * minibatches // num_groups


def owner_of_group(group: int, num_groups: int, minibatches: int, world_size: int) -> int:
    """The rank that samples and trains on a prompt: each minibatch is dealt out over all ranks."""
    first = -(-minibatch_of_group(group, num_groups, minibatches) * num_groups // minibatches)
    return (group - first) % world_size
