"""Samples as padded tensors, selections of their rows, and fillers."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.step.experience import Experience, filler

CPU = torch.device("cpu")


@pytest.fixture
def ragged(sample):
    prompts = [[5, 6], [7], [8, 9, 10]]
    samples = [sample(11, 12, 13), sample(14), sample(15, 16)]
    return Experience.build(prompts, samples, [0, 0, 1], pad_id=1, device=CPU)


def test_prompts_and_responses_lie_side_by_side_padded_on_the_right(ragged):
    assert ragged.input_ids.tolist() == [[5, 6, 11, 12, 13], [7, 14, 1, 1, 1], [8, 9, 10, 15, 16]]
    assert ragged.lengths.tolist() == [5, 2, 5]
    assert ragged.response_start.tolist() == [2, 1, 3]
    assert ragged.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert ragged.groups.tolist() == [0, 0, 1]


def test_index_t_of_the_rollouts_log_probs_is_response_token_t(ragged):
    expected = [[-0.1, -0.2, -0.3], [-0.1, 0.0, 0.0], [-0.1, -0.2, 0.0]]
    torch.testing.assert_close(ragged.rollout_log_probs, torch.tensor(expected))


def test_the_policy_attends_to_prompt_and_response_and_not_to_padding(ragged):
    expected = [[True] * 5, [True, True, False, False, False], [True] * 5]
    assert ragged.sequences.attention_mask.tolist() == expected
    assert torch.equal(ragged.sequences.response_mask, ragged.mask)


def test_a_pad_token_inside_a_response_is_a_token_like_any_other(sample):
    built = Experience.build([[5]], [sample(1, 12, 1)], [0], pad_id=1, device=CPU)
    assert built.mask.tolist() == [[True, True, True]]
    assert built.sequences.attention_mask.tolist() == [[True] * 4]


def test_a_selection_drops_the_padding_that_none_of_its_rows_needs(ragged):
    chosen = ragged.select(torch.tensor([2, 1]))
    assert chosen.input_ids.tolist() == [[8, 9, 10, 15, 16], [7, 14, 1, 1, 1]]
    assert chosen.mask.tolist() == [[True, True], [True, False]]
    assert chosen.rollout_log_probs.shape == chosen.advantages.shape == (2, 2)
    assert chosen.groups.tolist() == [1, 0]


def test_a_selection_keeps_a_masked_token_inside_or_at_the_end_of_a_response(ragged):
    mask = ragged.mask.clone()
    mask[0] = torch.tensor([True, False, True])
    mask[2] = torch.tensor([True, False, False])  # the last token that was sampled is not trained on
    chosen = replace(ragged, mask=mask).select(torch.tensor([0, 2]))
    assert chosen.mask.tolist() == [[True, False, True], [True, False, False]]
    # The width follows the sampled tokens: the policy still reads the masked ones.
    single = replace(ragged, mask=mask).select(torch.tensor([2]))
    assert single.mask.tolist() == [[True, False]]
    assert single.input_ids.tolist() == [[8, 9, 10, 15, 16]]


def test_a_selection_includes_old_and_reference_log_probs(ragged):
    old = torch.arange(9.0).reshape(3, 3)
    chosen = replace(ragged, old_log_probs=old).select(torch.tensor([1]))
    assert chosen.old_log_probs.tolist() == [[3.0]]
    assert chosen.ref_log_probs is None


def test_a_rank_may_have_no_row():
    nothing = Experience.build([], [], [], pad_id=0, device=CPU)
    assert len(nothing) == 0
    assert nothing.mask.shape == (0, 0)
    assert nothing.sequences.attention_mask.shape == (0, 0)
    assert len(nothing.select(torch.tensor([], dtype=torch.long))) == 0


def test_a_selection_of_nothing_has_no_rows(ragged):
    assert len(ragged.select(torch.tensor([], dtype=torch.long))) == 0


def test_a_filler_has_every_input_and_is_fully_masked():
    nothing = filler(7, CPU)
    assert not nothing.mask.any()
    assert nothing.input_ids.tolist() == [[7, 7]]
    assert [field.name for field in fields(nothing) if getattr(nothing, field.name) is None] == [
        "kept"  # the policy reads none for a sequence without tokens
    ]


def with_kept(sample, kept):
    return replace(sample(11, 12), kept=kept)


def test_kept_tokens_follow_their_sequences_through_selections(sample):
    first, second = [[11, 3], [12]], [[11], [9, 4, 12]]
    rows = [with_kept(sample, first), with_kept(sample, second), replace(sample(7), kept=[np.array([7, 8])])]
    experience = Experience.build([[1], [2], [3]], rows, [0, 0, 0], pad_id=0, device=CPU)
    assert experience.kept.counts.tolist() == [[2, 1], [1, 3], [2, 0]]
    chosen = experience.select(torch.tensor([2, 1, 1]))
    assert chosen.kept.counts.tolist() == [[2, 0], [1, 3], [1, 3]]
    assert chosen.kept.ids.tolist() == [7, 8, 11, 9, 4, 12, 11, 9, 4, 12]
    shortest = chosen.select(torch.tensor([0]))
    assert (shortest.kept.counts.tolist(), shortest.kept.ids.tolist()) == ([[2]], [7, 8])
    assert shortest.select(torch.tensor([], dtype=torch.long)).kept.ids.tolist() == []


@pytest.mark.parametrize(
    "kept",
    [
        [[11, 3]],  # one token has none
        [[11, 3], [13]],  # without the sampled token
        [[11, 3], []],
        None,  # the other sample has them
    ],
)
def test_incomplete_kept_tokens_are_refused(sample, kept):
    with pytest.raises(SkyrlError, match=r"must return, for each token .* \(Sample\.kept\)"):
        Experience.build(
            [[1], [2]], [with_kept(sample, [[11], [12]]), with_kept(sample, kept)], [0, 0], pad_id=0, device=CPU
        )
