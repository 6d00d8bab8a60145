"""gae: against the definition as a double sum, by hand, and across text that the policy did not generate."""

import pytest
import torch

from skyrl_core.advantages.gae import Gae
from skyrl_core.advantages.params import GaeParams
from skyrl_core.contract.advantage_estimator import AdvantageBatch

F64 = torch.float64


def estimate(
    rewards: list[float], values: list[list[float]], mask: list[list[int]], earned: torch.Tensor | None = None, **params
) -> torch.Tensor:
    batch = AdvantageBatch(
        torch.tensor(rewards, dtype=F64),
        torch.zeros(len(rewards), dtype=torch.int64),
        torch.tensor(mask).bool(),
        earned,
        torch.tensor(values, dtype=F64),
    )
    return Gae(GaeParams(**{"whiten": False, **params})).estimate(batch)


def test_by_hand_with_lambda_zero_it_is_the_td_error_of_each_token() -> None:
    # V = 1, 2, 4 and the outcome 5 at the last token: 2 - 1, 4 - 2, 5 - 4
    assert estimate([5], [[1, 2, 4]], [[1, 1, 1]], lam=0.0).tolist() == [[1, 2, 1]]


def test_by_hand_with_lambda_one_it_is_the_return_minus_the_value() -> None:
    assert estimate([5], [[1, 2, 4]], [[1, 1, 1]], lam=1.0).tolist() == [[4, 3, 1]]


def test_the_double_sum_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    values, gamma, lam = torch.rand(6, generator=generator, dtype=F64), 0.9, 0.8
    rewards = [0.0] * 5 + [2.0]
    later = [*values[1:].tolist(), 0.0]
    surprise = [r + gamma * n - v for r, n, v in zip(rewards, later, values.tolist(), strict=True)]
    expected = [sum((gamma * lam) ** (j - t) * surprise[j] for j in range(t, 6)) for t in range(6)]
    found = estimate([2.0], [values.tolist()], [[1] * 6], gamma=gamma, lam=lam)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_text_of_a_tool_is_not_a_step_and_has_no_advantage() -> None:
    whole = estimate([3], [[1, 2, 4]], [[1, 1, 1]], gamma=0.9, lam=0.7)
    holed = estimate([3], [[1, 99, 2, 4, 99]], [[1, 0, 1, 1, 0]], gamma=0.9, lam=0.7)
    assert holed[0, [0, 2, 3]].tolist() == whole[0].tolist()
    assert holed[0, [1, 4]].tolist() == [0, 0]


def test_rewards_of_tokens_are_part_of_the_return() -> None:
    earned = torch.tensor([[-1.0, -1.0]], dtype=F64)
    # rewards holds both: the outcome is 5, the tokens cost 1 each
    assert estimate([3], [[0, 0]], [[1, 1]], earned, lam=1.0).tolist() == [[3, 4]]


def test_whitened_advantages_of_all_tokens_have_mean_zero_and_variance_one() -> None:
    found = estimate([1, 0, 4], [[0.1] * 3] * 3, [[1, 1, 1], [1, 0, 0], [1, 1, 0]], whiten=True)
    tokens = found[torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()]
    assert float(tokens.mean()) == pytest.approx(0, abs=1e-12)
    assert float(tokens.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_without_values_it_reports_that_it_needs_a_value_model() -> None:
    batch = AdvantageBatch(torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="needs a value model"):
        Gae(GaeParams()).estimate(batch)
    assert Gae.needs_values


def test_values_of_another_shape_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"values must be float \[N, T\] like mask, got \[1, 3\]"):
        estimate([1], [[1, 2, 3]], [[1, 1]])


def test_a_sample_without_a_token_is_not_an_error() -> None:
    assert estimate([1, 2], [[0, 0], [0, 0]], [[0, 0], [1, 0]]).tolist()[0] == [0, 0]
