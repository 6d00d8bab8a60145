"""Define an advantage estimator in a script, register it and train with it."""

import torch

from skyrl_core import register_advantage_estimator
from skyrl_train.entrypoints.main_base import main


@register_advantage_estimator("best_of_group")
def best_of_group(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return each reward minus the midrange of its group: rewards [N], groups [N] -> advantages [N]."""
    count = int(groups.max()) + 1
    best = rewards.new_full((count,), -torch.inf).scatter_reduce(0, groups, rewards, "amax")
    worst = rewards.new_full((count,), torch.inf).scatter_reduce(0, groups, rewards, "amin")
    return rewards - (best + worst)[groups] / 2


if __name__ == "__main__":
    main()
