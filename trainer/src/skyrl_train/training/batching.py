"""Splits a rank's experience into minibatches and micro-batches, the same number on every rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skyrl_train.training.experience import Experience, filler
from skyrl_train.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows of a minibatch; a filler has none and holds one masked sequence, so that ranks stay in step."""

    rows: Tensor  # int64 [B], into the minibatch
    experience: Experience

    @property
    def is_filler(self) -> bool:
        return len(self.rows) == 0


def micro_batches(minibatch: Experience, size: int, ranks: Ranks, *, pad_id: int) -> list[MicroBatch]:
    """Micro-batches of at most ``size`` rows, filled up to the largest number that any rank has. Collective."""
    own = (
        [MicroBatch(rows=r, experience=minibatch.select(r)) for r in minibatch.micro_batches(size)]
        if len(minibatch)
        else []
    )
    wanted = int(ranks.max(torch.tensor([len(own)])))
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
