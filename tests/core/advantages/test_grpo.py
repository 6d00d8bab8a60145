"""Group-relative advantages against numbers by hand and an oracle in plain Python."""

import math
import statistics

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.advantages.grpo import Grpo
from skyrl_core.advantages.params import GrpoParams
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int], **params) -> list[float]:
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups, dtype=torch.int64))
    return Grpo(GrpoParams(**params)).estimate(batch).tolist()


def test_by_hand_with_the_unbiased_standard_deviation() -> None:
    # mean 0.25; squared deviations 0.5625 + 3 · 0.0625 = 0.75; variance 0.75 / 3 = 0.25; std 0.5
    assert estimate([1, 0, 0, 0], [0] * 4) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_by_hand_without_the_standard_deviation() -> None:
    assert estimate([1, 0, 0, 0], [0] * 4, norm_by_std=False) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_epsilon_is_added_to_the_standard_deviation() -> None:
    assert estimate([1, 0, 0, 0], [0] * 4, epsilon=0.5)[0] == pytest.approx(0.75)


@pytest.mark.parametrize("norm_by_std", [True, False])
def test_a_group_of_one_has_advantage_zero(norm_by_std: bool) -> None:
    assert estimate([1, 3, 5], [0, 1, 1], norm_by_std=norm_by_std)[0] == 0.0


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1e6])
def test_equal_rewards_have_exactly_zero_advantage(reward: float) -> None:
    assert estimate([reward] * 7, [0] * 7) == [0.0] * 7


def test_groups_of_any_size_and_order_with_unused_numbers_match_plain_python() -> None:
    generator = torch.Generator().manual_seed(2)
    groups = [5, 0, 2, 2, 5, 0, 2, 7, 0, 5, 2, 0]
    rewards = torch.randn(len(groups), generator=generator).tolist()
    expected = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        std = statistics.stdev(members) if len(members) > 1 else 0.0
        expected.append((reward - statistics.fmean(members)) / (std + 1e-6))
    assert estimate(rewards, groups) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_no_samples_give_no_advantages() -> None:
    assert estimate([], []) == []


def test_the_dtype_is_that_of_the_rewards() -> None:
    for dtype in (torch.float32, torch.float64):
        batch = AdvantageBatch(torch.tensor([1.0, 0.0], dtype=dtype), torch.tensor([0, 0]))
        assert Grpo(GrpoParams()).estimate(batch).dtype == dtype


def test_two_opposite_rewards_are_one_over_root_two() -> None:
    # deviations ±0.5, variance 0.5
    assert estimate([1, 0], [0, 0]) == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"norm_by_sdt": False}])
def test_rejects_parameters_out_of_range_or_unknown(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GrpoParams(**wrong)
