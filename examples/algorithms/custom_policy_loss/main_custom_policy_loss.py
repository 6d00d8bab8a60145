"""Define a policy loss in a script, register it and train with it: no package, no fork."""

from typing import Any

import torch

from skyrl_train.algorithms.policy_losses import PolicyLoss, register_policy_loss
from skyrl_train.entrypoints.main_base import main


class MyCustomPolicyLoss(PolicyLoss):
    """Policy gradient with the ratio capped at my_param: -mean(min(r, my_param) A)."""

    def __init__(self, config: Any) -> None:
        self.my_param = config.get("my_param", 2.0)

    def compute_loss(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        masks: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the mean over the unmasked tokens; all inputs are [B, T]."""
        ratio = torch.exp(log_probs - old_log_probs).clamp(max=self.my_param)
        return -(ratio * advantages * masks).sum() / masks.sum()


register_policy_loss("my_custom_loss", MyCustomPolicyLoss)

if __name__ == "__main__":
    main()
