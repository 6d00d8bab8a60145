"""opo: the length-weighted mean of the group as baseline."""

import pytest
import torch

from skyrl_core.advantages.opo import Opo
from skyrl_core.advantages.params import OpoParams
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int], lengths: list[int]) -> list[float]:
    mask = torch.arange(8) < torch.tensor(lengths, dtype=torch.int64).unsqueeze(-1)
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64), mask)
    return Opo(OpoParams()).estimate(batch).tolist()


def test_by_hand_with_unequal_groups() -> None:
    # group 0: (3 · 1 + 1 · 0) / 4 = 0.75; group 1: (2 · 1 + 4 · 0 + 2 · 1) / 8 = 0.5
    assert estimate([1, 1, 0, 0, 1], [0, 1, 1, 0, 1], [3, 2, 4, 1, 2]) == [0.25, 0.5, -0.5, -0.75, 0.5]


def test_equal_lengths_are_the_centred_rewards() -> None:
    assert estimate([1, 0, 0, 0], [0] * 4, [5] * 4) == [0.75, -0.25, -0.25, -0.25]


def test_a_group_of_one_equal_rewards_and_a_group_without_tokens_have_advantage_zero() -> None:
    assert estimate([7, 0.1, 0.1, 1, 2], [2, 0, 0, 1, 1], [4, 7, 3, 0, 0]) == [0.0] * 5


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], [], []) == []


def test_without_a_mask_it_raises() -> None:
    with pytest.raises(ValueError, match="weighs samples by their length: pass a mask to AdvantageBatch"):
        Opo(OpoParams()).estimate(AdvantageBatch(torch.tensor([1.0]), torch.tensor([0])))
