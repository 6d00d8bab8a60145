"""Rewards of tokens: the outcome, returns and whitening."""

import torch

from skyrl_core.advantages.tokens import returns_to_go, rewards_of_tokens, whitened

MASK = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()


def test_the_last_unmasked_token_gets_the_outcome() -> None:
    earned = rewards_of_tokens(torch.tensor([2.0, 3.0, 4.0]), None, MASK)
    assert earned.tolist() == [[0, 2, 0], [0, 0, 3], [0, 0, 0]]


def test_token_rewards_are_subtracted_from_the_outcome() -> None:
    own = torch.tensor([[-1.0, -1.0, 9.0], [-0.5, 9.0, 0.0], [9.0, 9.0, 9.0]])
    # the rewards hold the sum: 4 - 2, 3 - 0.5
    earned = rewards_of_tokens(torch.tensor([2.0, 2.5, 0.0]), own, MASK)
    assert earned.tolist() == [[-1, 3, 0], [-0.5, 0, 3], [0, 0, 0]]
    assert returns_to_go(earned).tolist() == [[2, 3, 0], [2.5, 3, 3], [0, 0, 0]]


def test_whitening_by_hand() -> None:
    values = torch.tensor([[0.0, 4.0, 7.0], [0.0, 7.0, 4.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    # the tokens are 0, 4, 0, 4: mean 2, deviation 2
    assert whitened(values, MASK, 0.0).tolist() == [[-1, 1, 0], [-1, 0, 1], [0, 0, 0]]
