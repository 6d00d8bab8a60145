"""The reference model: a frozen copy of the initial model, or the model without its adapters."""

from typing import Protocol

from torch import Tensor

from skyrl_train.policy.adapters import adapters_off
from skyrl_train.policy.policy import Sequences
from skyrl_train.trainer_engine.zero import ZeroEngine


class Reference(Protocol):
    """The frozen model whose log-probs a KL penalty compares with."""

    temperature: float

    def log_probs(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if requested, entropy [B, T]. All ranks must call it equally often."""
        ...


class BaseModel:
    """The trained model with its adapters disabled: needs no second copy of the weights."""

    def __init__(self, engine: ZeroEngine) -> None:
        self._engine = engine

    @property
    def temperature(self) -> float:
        """The policy's temperature: both share one model."""
        return self._engine.policy.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._engine.policy.temperature = value

    def log_probs(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if requested, entropy [B, T]. All ranks must call it equally often."""
        with adapters_off(self._engine.policy.model):
            return self._engine.forward(sequences, with_entropy=with_entropy)
