"""Splits a rank's experience into minibatches and micro-batches, the same number on every rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skyrl_train.training.experience import Experience, filler
from skyrl_train.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class MicroBatchSize:
    """How much goes through the model at one time: ``tokens``, padding included, where given, else ``sequences``."""

    sequences: int
    tokens: int | None = None

    def split(self, lengths: Tensor) -> list[Tensor]:
        """Row numbers of each micro-batch, int64 [N] -> int64 [B] each: similar lengths together, for less padding.

        A sequence that is longer than ``tokens`` has a micro-batch of its own.
        """
        if not len(lengths):
            return []
        order = lengths.argsort(stable=True)
        if self.tokens is None:
            return list(order.split(self.sequences))
        sizes: list[int] = []
        for length in lengths[order].tolist():
            if sizes and (sizes[-1] + 1) * length <= self.tokens:
                sizes[-1] += 1
            else:
                sizes.append(1)
        return list(order.split(sizes))


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
    parts = [rows[part] for part in size.split(minibatch.lengths[rows])]
    own = [MicroBatch(rows=part, experience=minibatch.select(part)) for part in parts]
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
