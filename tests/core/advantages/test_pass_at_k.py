"""pass_at_k: only a unique best sample of a group has an advantage."""

import torch

from skyrl_core.advantages.params import PassAtKParams
from skyrl_core.advantages.pass_at_k import PassAtK
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int]) -> list[float]:
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64))
    return PassAtK(PassAtKParams()).estimate(batch).tolist()


def test_by_hand_the_best_sample_gets_its_margin() -> None:
    assert estimate([0.25, 1.0, 0.5], [0] * 3) == [0.0, 0.5, 0.0]
    assert estimate([1, 0, 0, 0], [0] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_a_tie_for_the_best_gives_no_advantage() -> None:
    assert estimate([1, 1, 0], [0] * 3) == [0.0] * 3


def test_negative_rewards_have_a_best_too() -> None:
    assert estimate([-1.0, -3.0], [0, 0]) == [2.0, 0.0]


def test_a_group_of_one_and_equal_rewards_have_advantage_zero() -> None:
    assert estimate([7, 0.1, 0.1, 0.1], [2, 0, 0, 0]) == [0.0] * 4


def test_unequal_groups_with_unused_numbers_match_the_definition() -> None:
    generator = torch.Generator().manual_seed(6)
    groups = [5, 0, 2, 2, 5, 0, 2, 7, 0, 5, 2, 0]
    rewards = torch.randint(0, 6, (len(groups),), generator=generator).float().tolist()
    expected = []
    for index, group in enumerate(groups):
        members = [j for j, other in enumerate(groups) if other == group]
        others = [rewards[j] for j in members if j != index]
        expected.append(max(rewards[j] for j in members) - max(others) if others else 0.0)
    assert estimate(rewards, groups) == expected
    assert any(expected)


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], []) == []
