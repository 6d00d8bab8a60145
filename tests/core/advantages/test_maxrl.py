"""maxrl: divided by the mean reward of the group."""

import pytest
import torch

from skyrl_core.advantages.maxrl import Maxrl
from skyrl_core.advantages.params import MaxrlParams
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int]) -> list[float]:
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64))
    return Maxrl(MaxrlParams()).estimate(batch).tolist()


def test_by_hand_a_rare_success_counts_for_more() -> None:
    # mean 1/4: 3 and -1; mean 2/3: 1/2 and -1
    assert estimate([1, 0, 0, 0], [0] * 4) == [3.0, -1.0, -1.0, -1.0]
    assert estimate([1, 1, 0], [0] * 3) == pytest.approx([0.5, 0.5, -1.0])


def test_unequal_groups_do_not_mix() -> None:
    assert estimate([1, 1, 0, 0, 0, 0], [3, 0, 0, 3, 3, 3]) == [3.0, 1.0, -1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("reward", [0.0, 1.0, 1 / 3])
def test_equal_rewards_and_a_group_of_one_have_advantage_zero(reward: float) -> None:
    assert estimate([reward] * 4, [0, 0, 0, 1]) == [0.0] * 4


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], []) == []


def test_a_negative_reward_is_an_error_with_a_fix() -> None:
    with pytest.raises(ValueError, match=r"reward of sample 1 is -0.5; use rewards of at least 0, or dr_grpo"):
        estimate([1, -0.5], [0, 0])
