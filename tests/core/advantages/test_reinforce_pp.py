"""reinforce_pp: normalised over all tokens of the batch."""

import statistics

import pytest
import torch
from pydantic import ValidationError

from skyrl_core.advantages.params import ReinforcePpParams
from skyrl_core.advantages.reinforce_pp import ReinforcePp
from skyrl_core.contract.advantage_estimator import AdvantageBatch


def estimate(rewards: list[float], groups: list[int], lengths: list[int] | None = None, **params) -> list[float]:
    mask = None if lengths is None else torch.arange(8) < torch.tensor(lengths).unsqueeze(-1)
    batch = AdvantageBatch(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups, dtype=torch.int64), mask)
    advantages = ReinforcePp(ReinforcePpParams(**params)).estimate(batch)
    if mask is None:
        return advantages.tolist()
    assert (advantages == torch.where(mask, advantages[:, :1], 0.0)).all()  # every token has that of its sample
    return advantages[:, 0].tolist()


def test_by_hand_without_lengths() -> None:
    # mean 2, deviations ±2: population std 2
    assert estimate([0, 4, 0, 4], [0, 0, 1, 1]) == pytest.approx([-1, 1, -1, 1])


def test_by_hand_a_sample_counts_with_its_tokens() -> None:
    # three tokens of 1 and one of 5: mean 2, variance (3 · 1 + 9) / 4 = 3
    assert estimate([1, 5], [0, 0], [3, 1]) == pytest.approx([-1 / 3**0.5, 3 / 3**0.5])


@pytest.mark.parametrize("baseline", [False, True])
def test_unequal_groups_and_lengths_match_plain_python(baseline: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    groups, lengths = [5, 0, 2, 2, 5, 0, 2, 7, 0], [3, 1, 8, 2, 0, 5, 4, 6, 2]
    rewards = torch.randn(len(groups), generator=generator, dtype=torch.float64).tolist()
    scores = [
        r - baseline * statistics.fmean(x for x, other in zip(rewards, groups, strict=True) if other == g)
        for r, g in zip(rewards, groups, strict=True)
    ]
    tokens = [score for score, length in zip(scores, lengths, strict=True) for _ in range(length)]
    mean, std = statistics.fmean(tokens), statistics.pstdev(tokens)
    # a sample without a token has no advantage
    expected = [(score - mean) / (std + 1e-8) if length else 0 for score, length in zip(scores, lengths, strict=True)]
    assert estimate(rewards, groups, lengths, baseline=baseline) == pytest.approx(expected, abs=1e-12)


def test_the_baseline_takes_out_the_difficulty_of_prompts() -> None:
    # in the batch the easy prompt would win; in their groups both differ by ±1
    assert estimate([0, 2, 10, 12], [0, 0, 1, 1], baseline=True) == pytest.approx([-1, 1, -1, 1])


@pytest.mark.parametrize("baseline", [False, True])
def test_equal_rewards_have_advantage_zero(baseline: bool) -> None:
    assert estimate([0.1] * 3, [0, 0, 1], [5, 3, 7], baseline=baseline) == pytest.approx([0.0] * 3, abs=1e-6)


def test_equal_float32_rewards_have_exactly_zero_advantage() -> None:
    mask = torch.arange(8) < torch.tensor([5, 3, 7]).unsqueeze(-1)
    batch = AdvantageBatch(torch.full((3,), 0.1), torch.tensor([0, 0, 1]), mask)
    assert ReinforcePp(ReinforcePpParams()).estimate(batch).abs().max() == 0


def test_a_single_sample_or_none_or_none_with_tokens_is_not_an_error() -> None:
    assert estimate([3], [0], [4]) == [0.0]
    assert estimate([], []) == []
    assert all(abs(a) < float("inf") for a in estimate([1, 0], [0, 0], [0, 0]))


def test_rejects_parameters_out_of_range() -> None:
    with pytest.raises(ValidationError, match="epsilon"):
        ReinforcePpParams(epsilon=0)
