"""The covariance at each token, and the order that it gives."""

import pytest
import torch

from skyrl_core.maths.covariance import at_indices, by_covariance, share_of_tokens, token_covariance


def test_by_hand_without_masked_tokens() -> None:
    log_probs = torch.tensor([[-1.0, -3.0], [-2.0, 99.0]])
    advantages = torch.tensor([[2.0, -1.0], [-1.0, torch.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    # means -2 and 0
    covariance = token_covariance(log_probs, advantages, mask)
    assert covariance[mask].tolist() == [2.0, 1.0, 0.0]


def test_order_is_by_covariance_then_log_prob_whatever_the_rows() -> None:
    covariance = torch.tensor([[1.0, 5.0, 1.0], [9.0, 1.0, 2.0]])
    log_probs = torch.tensor([[-3.0, -1.0, -7.0], [-2.0, -5.0, -4.0]])
    among = torch.tensor([[True, True, True], [False, True, True]])
    ordered = by_covariance(covariance, log_probs, among)
    assert ordered.tolist() == [1, 5, 2, 4, 0]
    flipped = by_covariance(covariance.flip(0), log_probs.flip(0), among.flip(0))
    assert torch.equal(log_probs.flip(0).flatten()[flipped], log_probs.flatten()[ordered])


def test_order_of_no_tokens_is_empty() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert by_covariance(torch.zeros(2, 3), torch.zeros(2, 3), none).tolist() == []


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 3), (0.34, 2), (0.01, 1), (1.0, 6)])
def test_a_share_is_rounded_down_and_at_least_one(fraction: float, count: int) -> None:
    assert share_of_tokens(fraction, torch.tensor([[True, True, False, True], [True, True, True, False]])) == count


def test_flat_indices_become_a_mask() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert at_indices(torch.tensor([0, 3]), mask).tolist() == [[True, False], [False, True]]
    assert mask.all()
