"""The rank and minibatch of each prompt, and equal numbers of micro-batches on all ranks."""

import pytest
import torch

from skyrl_train.rollout.rollout_engine import Sample
from skyrl_train.step.batching import MicroBatchSize, micro_batches, minibatch_of_group, owner_of_group
from skyrl_train.step.experience import Experience

SPLITS = [(6, 1), (6, 2), (6, 3), (6, 6), (7, 1), (10, 5), (1, 1), (16, 4)]


@pytest.mark.parametrize(("groups", "minibatches"), SPLITS)
def test_minibatches_are_consecutive_prompts_in_equal_parts(groups, minibatches):
    numbers = [minibatch_of_group(group, groups, minibatches) for group in range(groups)]
    assert numbers == sorted(numbers)
    assert [numbers.count(number) for number in range(minibatches)] == [groups // minibatches] * minibatches


@pytest.mark.parametrize(("groups", "minibatches"), SPLITS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_each_minibatch_is_distributed_evenly_over_the_ranks(groups, minibatches, world_size):
    owners = [owner_of_group(group, groups, minibatches, world_size) for group in range(groups)]
    assert set(owners) <= set(range(world_size))
    for number in range(minibatches):
        dealt = [o for g, o in enumerate(owners) if minibatch_of_group(g, groups, minibatches) == number]
        shares = [dealt.count(rank) for rank in range(world_size)]
        assert max(shares) - min(shares) <= 1
        assert dealt[0] == 0  # the first rank is never idle while another works


def test_minibatches_of_a_count_that_they_do_not_divide_still_cover_every_prompt():
    # The configuration refuses this, but the functions still lose no prompt.
    numbers = [minibatch_of_group(group, 7, 3) for group in range(7)]
    assert numbers == [0, 0, 0, 1, 1, 2, 2]
    assert [owner_of_group(group, 7, 3, 2) for group in range(7)] == [0, 1, 0, 0, 1, 0, 1]


def split(lengths, groups=None, **size):
    """The rows of each micro-batch of sequences with these lengths, two tokens of each a prompt."""
    groups = range(len(lengths)) if groups is None else groups
    samples = [
        Sample(token_ids=(1,) * (n - 2), log_probs=(0.0,) * (n - 2), finished=True, policy_version=0) for n in lengths
    ]
    built = Experience.build([(7, 7)] * len(samples), samples, list(groups), pad_id=0, device=torch.device("cpu"))
    return MicroBatchSize(**{"sequences": 1} | size).split(built, torch.arange(len(samples)))


@pytest.mark.parametrize("size", [1, 3, 4, 10, 99])
def test_micro_batches_hold_every_row_once_and_similar_lengths_together(experience, size):
    parts = MicroBatchSize(sequences=size).split(experience, torch.arange(10))
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
    assert all(len(part) <= size for part in parts)
    lengths = experience.lengths[torch.cat(parts)].tolist()
    assert lengths == sorted(lengths)


def test_micro_batches_are_filled_by_tokens_with_their_padding():
    lengths = torch.tensor([5, 2, 9, 3, 20, 3, 8])
    parts = split(lengths, tokens=18)
    # Sorted 2, 3, 3, 5 and 8, 9 and 20: 3 rows to 3 are 9 tokens, 4 rows to 5 are 20 > 18; 5 and 8 are 16, with 9
    # they are 27; 9 and 20 are 40; a single 20 is above 18.
    assert [lengths[part].tolist() for part in parts] == [[2, 3, 3], [5, 8], [9], [20]]
    assert [part.tolist() for part in parts] == [[1, 3, 5], [0, 6], [2], [4]]
    assert split(lengths[:0], tokens=18) == []


def test_a_token_budget_can_be_used_completely():
    lengths = torch.tensor([4, 4, 4, 4, 4])
    assert [len(part) for part in split(lengths, tokens=8)] == [2, 2, 1]
    assert [len(part) for part in split(lengths, tokens=7)] == [1] * 5


GROUPS = [0, 1, 0, 1, 2, 2]
LENGTHS = torch.tensor([3, 4, 9, 5, 6, 3])


def test_samples_of_a_prompt_are_together_where_that_costs_less():
    parts = split(LENGTHS, GROUPS, sequences=2, cost=lambda sequences: float(len(sequences.input_ids)))
    assert [part.tolist() for part in parts] == [[0, 5], [1, 3], [4, 2]]  # equal costs: similar lengths
    asked = []

    def number_of_prompts(sequences):
        asked.append(sequences.input_ids.shape)
        return float(sequences.input_ids.shape[1])

    # By lengths 3, 3 and 4, 5 and 6, 9: widths 3 + 5 + 9. By groups, in the order of their longest: 5 + 6 + 9.
    assert [part.tolist() for part in split(LENGTHS, GROUPS, sequences=2, cost=number_of_prompts)] == [
        [0, 5],
        [1, 3],
        [4, 2],
    ]
    assert asked == [(2, 3), (2, 5), (2, 9), (2, 5), (2, 6), (2, 9)]
    parts = split(LENGTHS, GROUPS, sequences=2, cost=lambda sequences: -float(sequences.input_ids.shape[1]))
    assert [part.tolist() for part in parts] == [[1, 3], [5, 4], [0, 2]]


def test_groups_are_filled_by_tokens_with_the_padding_of_the_longest_so_far():
    # By groups 4, 5 | 3, 6 | 3, 9. Of 15 tokens: 2 rows to 5; 5 again and 3 would be 3 rows to 5 = 15; then 6, 3 and 9.
    parts = split(LENGTHS, GROUPS, tokens=15, cost=lambda sequences: -float(sequences.input_ids.shape[1]))
    assert [LENGTHS[part].tolist() for part in parts] == [[4, 5, 3], [6, 3], [9]]


def test_only_chosen_rows_are_split_and_they_keep_their_numbers(on_ranks, experience):
    chosen = {0: [7, 2], 1: []}

    def split(ranks):
        rows = torch.tensor(chosen[ranks.rank], dtype=torch.long)
        return micro_batches(experience, MicroBatchSize(sequences=1), ranks, pad_id=0, rows=rows)

    first, second = on_ranks(2, split)
    assert sorted(int(micro.rows) for micro in first) == [2, 7]
    for micro in first:
        assert torch.equal(micro.experience.input_ids[0, :2], experience.input_ids[int(micro.rows), :2])
    assert [micro.is_filler for micro in second] == [True, True]


def test_without_rows_there_are_as_many_fillers_as_requested(on_ranks, experience):
    size, nothing = MicroBatchSize(sequences=4), torch.tensor([], dtype=torch.long)
    parts = on_ranks(2, lambda ranks: micro_batches(experience, size, ranks, pad_id=0, rows=nothing, at_least=1))
    assert [[micro.is_filler for micro in rank] for rank in parts] == [[True], [True]]


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_ranks_run_equally_many_micro_batches_and_cover_their_rows_once(on_ranks, experience, size):
    shares = {0: [0, 1, 2, 3, 4, 5], 1: [6, 7, 8, 9], 2: []}

    def split(ranks):
        own = experience.select(torch.tensor(shares[ranks.rank], dtype=torch.long))
        return micro_batches(own, MicroBatchSize(sequences=size), ranks, pad_id=0)

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
    assert on_ranks(2, lambda ranks: micro_batches(nothing, MicroBatchSize(sequences=4), ranks, pad_id=0)) == [[], []]
