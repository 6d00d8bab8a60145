"""dr_grpo: only centred in the group."""

import torch

from skyrl_core.advantages.dr_grpo import DrGrpo
from skyrl_core.advantages.params import DrGrpoParams
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int]) -> list[float]:
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64))
    return DrGrpo(DrGrpoParams()).estimate(batch).tolist()


def test_by_hand_with_unequal_groups() -> None:
    assert estimate([1, 0, 0, 0, 3, 5], [1, 1, 1, 1, 0, 0]) == [0.75, -0.25, -0.25, -0.25, -1.0, 1.0]


def test_a_group_of_one_and_equal_rewards_have_advantage_zero() -> None:
    assert estimate([7, 0.1, 0.1, 0.1], [2, 0, 0, 0]) == [0.0] * 4


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], []) == []
