"""Leave-one-out advantages against numbers by hand and an oracle in plain Python."""

import statistics

import pytest
import torch

from skyrl_core.advantages.params import RlooParams
from skyrl_core.advantages.rloo import Rloo
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int]) -> list[float]:
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64))
    return Rloo(RlooParams()).estimate(batch).tolist()


def test_by_hand() -> None:
    # 1 - mean(0, 0.5) = 0.75; 0 - mean(1, 0.5) = -0.75; 0.5 - mean(1, 0) = 0
    assert estimate([1, 0, 0.5], [0, 0, 0]) == pytest.approx([0.75, -0.75, 0.0])


def test_a_group_of_one_has_no_baseline_and_advantage_zero() -> None:
    assert estimate([1, 3, 5], [0, 1, 1]) == pytest.approx([0.0, -2.0, 2.0])


def test_groups_of_any_size_and_order_with_unused_numbers_match_plain_python() -> None:
    generator = torch.Generator().manual_seed(3)
    groups = [5, 0, 2, 2, 5, 0, 2, 7, 0, 5, 2, 0]
    rewards = torch.randn(len(groups), generator=generator).tolist()
    expected = []
    for index, group in enumerate(groups):
        others = [rewards[j] for j, other in enumerate(groups) if other == group and j != index]
        expected.append(rewards[index] - statistics.fmean(others) if others else 0.0)
    assert estimate(rewards, groups) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], []) == []
