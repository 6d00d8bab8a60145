"""How the samples of a step are divided among ranks, and which ranks wait."""

import os
from dataclasses import dataclass
from math import ceil

from skyrl_train.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """The work of each rank in an optimizer step. The samples of a prompt stay on one rank."""

    ranks: int
    local_ranks: int  # on this machine
    sequences: tuple[int, ...]  # of an optimizer step, by rank
    sequences_of_step: tuple[int, ...]  # of a training step, by rank
    micro_batches: int | None  # on every rank; None if they are limited by tokens
    evaluated: int  # answers of an evaluation on the rank that has most

    @property
    def largest(self) -> int:
        """Sequences of an optimizer step on the rank that has most."""
        return max(self.sequences)

    @property
    def without_samples(self) -> int:
        """The number of ranks that get no sample."""
        return sum(count == 0 for count in self.sequences)

    @property
    def idle_share(self) -> float:
        """The share of an optimizer step in which a rank waits for the fullest one, on average."""
        return 1 - sum(self.sequences) / (self.largest * self.ranks)


def plan_ranks(config: RunConfig, processes: int) -> RankPlan:
    """The division among the processes of a launcher, or else among ``processes``."""
    trainer, evaluation = config.trainer, config.evaluation
    ranks = int(os.environ.get("WORLD_SIZE", processes))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    prompts = trainer.prompts_per_step // trainer.minibatches
    own = tuple((prompts // ranks + (rank < prompts % ranks)) * trainer.samples_per_prompt for rank in range(ranks))
    limited = trainer.micro_batch_tokens is not None
    return RankPlan(
        ranks=ranks,
        local_ranks=local,
        sequences=own,
        sequences_of_step=tuple(count * trainer.minibatches for count in own),
        micro_batches=None if limited else ceil(max(own) / trainer.micro_batch_size),
        evaluated=ceil(evaluation.prompts / ranks) * evaluation.samples_per_prompt,
    )
