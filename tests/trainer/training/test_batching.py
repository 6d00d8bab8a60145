"""Who trains on which prompt, in which minibatch; and that all ranks run the same number of micro-batches."""

import pytest
import torch

from skyrl_train.training.batching import micro_batches, minibatch_of_group, owner_of_group

SPLITS = [(6, 1), (6, 2), (6, 3), (6, 6), (7, 1), (10, 5), (1, 1), (16, 4)]


@pytest.mark.parametrize(("groups", "minibatches"), SPLITS)
def test_minibatches_are_consecutive_prompts_in_equal_parts(groups, minibatches):
    numbers = [minibatch_of_group(group, groups, minibatches) for group in range(groups)]
    assert numbers == sorted(numbers)
    assert [numbers.count(number) for number in range(minibatches)] == [groups // minibatches] * minibatches


@pytest.mark.parametrize(("groups", "minibatches"), SPLITS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_each_minibatch_is_dealt_out_evenly_over_the_ranks(groups, minibatches, world_size):
    owners = [owner_of_group(group, groups, minibatches, world_size) for group in range(groups)]
    assert set(owners) <= set(range(world_size))
    for number in range(minibatches):
        dealt = [o for g, o in enumerate(owners) if minibatch_of_group(g, groups, minibatches) == number]
        shares = [dealt.count(rank) for rank in range(world_size)]
        assert max(shares) - min(shares) <= 1
        assert dealt[0] == 0  # the first rank is never idle while another works


def test_minibatches_of_a_count_that_they_do_not_divide_still_cover_every_prompt():
    # The configuration refuses this; the functions do not lose a prompt.
    numbers = [minibatch_of_group(group, 7, 3) for group in range(7)]
    assert numbers == [0, 0, 0, 1, 1, 2, 2]
    assert [owner_of_group(group, 7, 3, 2) for group in range(7)] == [0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_ranks_run_equally_many_micro_batches_and_cover_their_rows_once(on_ranks, experience, size):
    shares = {0: [0, 1, 2, 3, 4, 5], 1: [6, 7, 8, 9], 2: []}

    def split(ranks):
        own = experience.select(torch.tensor(shares[ranks.rank], dtype=torch.long))
        return micro_batches(own, size, ranks, pad_id=0)

    parts = on_ranks(3, split)
    assert {len(rank) for rank in parts} == {-(-6 // size)}
    for rank, own in enumerate(parts):
        rows = torch.cat([micro.rows for micro in own]).tolist()
        assert sorted(rows) == list(range(len(shares[rank])))
        for micro in own:
            assert micro.is_filler == (len(micro.rows) == 0)
            assert len(micro.experience) == (1 if micro.is_filler else len(micro.rows))
            assert micro.is_filler != bool(micro.experience.mask.any())


def test_no_rank_has_rows_no_rank_has_micro_batches(on_ranks, experience):
    nothing = experience.select(torch.tensor([], dtype=torch.long))
    assert on_ranks(2, lambda ranks: micro_batches(nothing, 4, ranks, pad_id=0)) == [[], []]
