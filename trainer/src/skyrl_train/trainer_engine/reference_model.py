"""The reference policy: a frozen copy of the starting point or, where adapters are trained, the model without them."""

from typing import Protocol

from torch import Tensor

from skyrl_train.policy.adapters import adapters_off
from skyrl_train.policy.policy import Sequences
from skyrl_train.trainer_engine.zero import ZeroEngine


class Reference(Protocol):
    """What log-probs are compared with."""

    temperature: float

    def score(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if asked for, entropy [B, T]. All ranks call it equally often."""
        ...


class BaseModel:
    """The model in training as it was before its adapters: no second copy of the weights, on any ZeRO stage."""

    def __init__(self, engine: ZeroEngine) -> None:
        self._engine = engine

    @property
    def temperature(self) -> float:
        """That of the policy, whose weights these are."""
        return self._engine.policy.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._engine.policy.temperature = value

    def score(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if asked for, entropy [B, T]. All ranks call it equally often."""
        with adapters_off(self._engine.policy.model):
            return self._engine.forward(sequences, with_entropy=with_entropy)
