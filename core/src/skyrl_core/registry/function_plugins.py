"""Classes made from losses and advantage estimators that are plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from skyrl_core.contract.advantage_estimator import AdvantageBatch, AdvantageEstimator
    from skyrl_core.contract.policy_loss import PolicyLoss


def loss_of_function(name: str, function: Callable[..., Tensor]) -> type[PolicyLoss]:
    """A PolicyLoss of scalar form; the function gets the parameters of the loss as keyword arguments."""
    from skyrl_core.contract.policy_loss import PolicyLoss

    def compute_loss(
        self: PolicyLoss, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, masks: Tensor, **kwargs: Any
    ) -> Tensor:
        return function(log_probs, old_log_probs, advantages, masks, **dict(self.params), **kwargs)

    return _subclass(PolicyLoss, function, name=name, compute_loss=compute_loss)


def estimator_of_function(name: str, function: Callable[..., Tensor]) -> type[AdvantageEstimator]:
    """An AdvantageEstimator; the function gets its parameters as keyword arguments."""
    from skyrl_core.contract.advantage_estimator import AdvantageEstimator

    def estimate(self: AdvantageEstimator, batch: AdvantageBatch) -> Tensor:
        return function(batch.rewards, batch.groups, **dict(self.params))

    return _subclass(AdvantageEstimator, function, name=name, estimate=estimate)


def _subclass(base: type[Any], function: Callable[..., Tensor], **members: Any) -> type[Any]:
    # With the function's name and module, so that messages point to the user's code.
    names = ("__module__", "__qualname__", "__doc__")
    members |= {key: value for key in names if (value := getattr(function, key, None)) is not None}
    return type(getattr(function, "__name__", base.__name__), (base,), members)
