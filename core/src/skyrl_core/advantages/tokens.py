"""Rewards and advantages of tokens. Shapes: N samples, T response tokens; masked tokens are 0."""

import torch
from torch import Tensor


def rewards_of_tokens(rewards: Tensor, token_rewards: Tensor | None, mask: Tensor) -> Tensor:
    """The reward of each token; the last token also gets the outcome. [N], [N, T], bool -> float64 [N, T]."""
    parts = torch.zeros(mask.shape, dtype=torch.float64) if token_rewards is None else token_rewards.to(torch.float64)
    parts = torch.where(mask, parts, 0.0)
    outcome = rewards.to(torch.float64) - parts.sum(-1)
    positions = torch.arange(mask.shape[1]).expand_as(mask)
    last = torch.where(mask, positions, -1).amax(-1, keepdim=True) if mask.shape[1] else positions
    return parts + torch.where(mask & (positions == last), outcome.unsqueeze(-1), 0.0)


def returns_to_go(earned: Tensor) -> Tensor:
    """The sum of the rewards of each token and all later ones: float [N, T] -> [N, T]."""
    return earned.flip(-1).cumsum(-1).flip(-1)


def whitened(values: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / (std + epsilon) over the unmasked tokens, std of the population; 0 where masked. float64 [N, T]."""
    total = mask.sum().clamp(min=1)
    centred = torch.where(mask, values - torch.where(mask, values, 0.0).sum() / total, 0.0)
    return centred / ((centred.square().sum() / total).sqrt() + epsilon)
