"""``prepare`` gets the minibatch of all ranks once, and its result is cut to the rows of each micro-batch."""

from dataclasses import replace

import pytest
import torch

from skyrl_core import LossParams, Need, PolicyLoss, Prepared
from skyrl_core.registry.scheduled_loss import ScheduledLoss
from skyrl_train.step.batch_statistics import prepare
from skyrl_train.step.batching import MicroBatchSize, micro_batches
from skyrl_train.step.objective import Objective

SHARES = {1: [range(10)], 2: [range(5), range(5, 10)], 3: [range(6), range(6, 10), range(0)]}


class Recorder(PolicyLoss):
    """Prepares a copy of all its inputs, and a table of the five groups."""

    def __init__(self):
        super().__init__(LossParams())

    @classmethod
    def needs(cls, params):
        return frozenset({Need.OLD_LOG_PROBS, Need.ROLLOUT_LOG_PROBS, Need.GROUPS})

    def prepare(self, minibatch):
        return Prepared(
            per_token={
                "advantages": minibatch.advantages * 2,
                "old": minibatch.old_log_probs,
                "rollout": minibatch.rollout_log_probs,
            },
            per_sequence={"row": minibatch.groups + 100},
            per_minibatch={
                # As long as half of the ten sequences, the share of one of two ranks.
                "of_group": torch.bincount(minibatch.groups, weights=minibatch.mask.sum(-1).double()),
                "ten": torch.arange(10),  # as long as the minibatch has sequences
                "tokens": minibatch.mask.sum(),
                "step": torch.tensor(minibatch.step),
            },
        )


@pytest.mark.parametrize("world_size", list(SHARES))
@pytest.mark.parametrize("size", [1, 4, 64])
def test_every_micro_batch_gets_its_rows_of_the_prepared_tensors(on_ranks, experience, world_size, size):
    objective = Objective(loss=ScheduledLoss.fixed(Recorder()), reduction="token_mean", max_length=8)
    complete = replace(experience, old_log_probs=experience.rollout_log_probs - 1)

    def work(ranks):
        own = complete.select(torch.tensor(list(SHARES[world_size][ranks.rank]), dtype=torch.long))
        inputs = {
            Need.OLD_LOG_PROBS: own.old_log_probs,
            Need.ROLLOUT_LOG_PROBS: own.rollout_log_probs,
            Need.GROUPS: own.groups,
        }
        prepared = prepare(objective, own, inputs, torch.zeros(own.mask.shape), ranks, step=11)
        parts = micro_batches(own, MicroBatchSize(sequences=size), ranks, pad_id=0)
        return [(micro, prepared.part(micro)) for micro in parts]

    parts = [part for rank in on_ranks(world_size, work) for part in rank]
    assert sum(len(micro.rows) for micro, _ in parts) == 10
    lengths_of_groups = [5.0, 9.0, 9.0, 6.0, 4.0]  # 4+1, 7+2, 3+6, 1+5, 2+2 tokens
    for micro, part in parts:
        batch = micro.experience
        assert part["of_group"].tolist() == lengths_of_groups
        assert part["ten"].tolist() == list(range(10))
        assert (int(part["tokens"]), int(part["step"])) == (33, 11)
        assert part["advantages"].shape == part["old"].shape == batch.mask.shape
        if micro.is_filler:
            continue
        assert torch.equal(part["row"], batch.groups + 100)
        for name, expected in (
            ("advantages", batch.advantages * 2),
            ("old", batch.old_log_probs),
            ("rollout", batch.rollout_log_probs),
        ):
            assert torch.equal(part[name], torch.where(batch.mask, expected, 0.0))


def test_prepared_tensors_carry_no_gradient(one_rank, experience):
    class Learns(Recorder):
        def prepare(self, minibatch):
            return Prepared(per_token={"log_probs": minibatch.log_probs * torch.ones(1, requires_grad=True)})

    objective = Objective(loss=ScheduledLoss.fixed(Learns()), reduction="token_mean", max_length=8)
    inputs = dict.fromkeys(Learns.needs(None), experience.rollout_log_probs) | {Need.GROUPS: experience.groups}
    prepared = prepare(objective, experience, inputs, torch.zeros(experience.mask.shape), one_rank, step=0)
    assert not prepared.prepared.tensors["log_probs"].requires_grad
