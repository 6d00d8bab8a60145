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
    """The size of a micro-batch: at most ``tokens`` with padding, if given, else ``sequences``.

    ``cost`` estimates the computation of a batch if it depends on which sequences share the batch, as in a model that
    computes a prompt once for all of its samples.
    """

    sequences: int
    tokens: int | None = None
    cost: Callable[[Sequences], float] | None = None

    def split(self, experience: Experience, rows: Tensor) -> list[Tensor]:
        """Split the rows, int64 [n], into micro-batches, int64 [B] each.

        Sequences of similar lengths go together, which saves padding, or the samples of a prompt, if that costs less.
        A sequence longer than ``tokens`` forms a separate micro-batch.
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
    """An order, int64 [n], of groups by their longest sequence and of sequences in a group by length."""
    longest = torch.zeros(int(groups.max()) + 1, dtype=lengths.dtype, device=lengths.device)
    longest = longest.scatter_reduce(0, groups, lengths, "amax")[groups]
    keys = [key.tolist() for key in (longest, groups, lengths)]
    return torch.tensor(sorted(range(len(lengths)), key=lambda row: [key[row] for key in keys]), device=lengths.device)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of a minibatch. A filler has one masked sequence instead, to give all ranks as many passes."""

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
    """Micro-batches of at most this size, with fillers up to the largest number on any rank. Collective.

    Args:
        minibatch: this rank's part of the minibatch.
        size: size of a micro-batch.
        ranks: the processes of the run, which all get the same number.
        pad_id: token of fillers.
        rows: int64 [n], the rows of the minibatch to use; None uses all.
        at_least: smallest number of micro-batches, even if no rank has a row.
    """
    rows = torch.arange(len(minibatch), device=minibatch.lengths.device) if rows is None else rows
    own = [MicroBatch(rows=part, experience=minibatch.select(part)) for part in size.split(minibatch, rows)]
    wanted = max(int(ranks.max(torch.tensor([len(own)]))), at_least)
    empty = MicroBatch(
        rows=torch.empty(0, dtype=torch.long, device=ranks.device), experience=filler(pad_id, ranks.device)
    )
    return own + [empty] * (wanted - len(own))


def minibatch_of_group(group: int, num_groups: int, minibatches: int) -> int:
    """The minibatch of a prompt of the step: consecutive prompts, the same on any number of ranks."""
    return group * minibatches // num_groups


def owner_of_group(group: int, num_groups: int, minibatches: int, world_size: int) -> int:
    """The rank that samples and trains on a prompt: each minibatch is distributed over all ranks."""
    first = -(-minibatch_of_group(group, num_groups, minibatches) * num_groups // minibatches)
    return (group - first) % world_size
