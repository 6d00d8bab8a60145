"""Names for a script that defines a policy loss: `PolicyLoss` and `register_policy_loss`."""

from skyrl_core.contract import PolicyLoss
from skyrl_core.registry import register_policy_loss

__all__ = ["PolicyLoss", "register_policy_loss"]
