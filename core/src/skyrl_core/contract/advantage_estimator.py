"""The contract of an advantage estimator: all rewards of a step in, advantages out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from skyrl_core.parameters.loss_params import LossParams, OpenLossParams


@dataclass(frozen=True)
class AdvantageBatch:
    """The samples of one step from all ranks: N samples in G groups.

    Raises:
        ValueError: a shape or dtype is wrong, a group number is negative, or a reward is not finite.
    """

    rewards: Tensor  # float [N]
    groups: Tensor  # int64 [N], 0..G-1: samples of the same prompt share a number
    mask: Tensor | None = None  # bool [N, T], True where the policy generated the token
    token_rewards: Tensor | None = None  # float [N, T], the part of the rewards that belongs to individual
    # tokens; the rest is the outcome, credited to the last token
    values: Tensor | None = None  # float [N, T], the return that a value model expects before each token
    reward_parts: Mapping[str, Tensor] = field(default_factory=dict)  # float [N] by name, if the environment returns
    # several rewards, of which `rewards` is the weighted sum; NaN for samples of other environments

    def __post_init__(self) -> None:
        """Reject shapes, dtypes and values that an estimator would silently broadcast or propagate."""
        if self.rewards.ndim != 1 or not self.rewards.is_floating_point():
            raise ValueError(f"rewards must be float [N], got {self.rewards.dtype} {list(self.rewards.shape)}")
        if self.groups.shape != self.rewards.shape or self.groups.dtype != torch.int64:
            raise ValueError(
                f"groups must be int64 {list(self.rewards.shape)} like rewards, "
                f"got {self.groups.dtype} {list(self.groups.shape)}"
            )
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape[:-1] != self.rewards.shape):
            raise ValueError(
                f"mask must be bool [{len(self.rewards)}, T], got {self.mask.dtype} {list(self.mask.shape)}"
            )
        self._check_other_rewards()
        if (self.groups < 0).any():
            raise ValueError(f"groups are numbered from 0, got {int(self.groups.min())}")
        if not self.rewards.isfinite().all():
            index = int((~self.rewards.isfinite()).nonzero()[0])
            raise ValueError(f"reward of sample {index} is {float(self.rewards[index])}: rewards must be finite")

    def _check_other_rewards(self) -> None:
        for name, tensor in {"token_rewards": self.token_rewards, "values": self.values}.items():
            if tensor is not None and (self.mask is None or tensor.shape != self.mask.shape):
                raise ValueError(f"{name} must be float [N, T] like mask, got {list(tensor.shape)}")
        for name, tensor in self.reward_parts.items():
            if tensor.shape != self.rewards.shape:
                raise ValueError(f"reward_parts[{name!r}] must be float [N] like rewards, got {list(tensor.shape)}")


class AdvantageEstimator(ABC):
    """Turns rewards into advantages. Sees the samples of all ranks, so that groups are complete."""

    name: ClassVar[str] = ""
    """Equals the entry-point name."""
    Params: ClassVar[type[LossParams]] = OpenLossParams
    needs_values: ClassVar[bool] = False
    """Whether it reads ``values``, which requires training a value model alongside the policy."""

    def __init__(self, params: LossParams) -> None:
        self.params: Any = params

    @abstractmethod
    def estimate(self, batch: AdvantageBatch) -> Tensor:
        """Advantages in the dtype of the rewards, per sample, float [N], or per token, float [N, T]."""
