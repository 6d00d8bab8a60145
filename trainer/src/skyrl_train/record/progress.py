"""The progress of a run: the part of its state that a checkpoint saves besides tensors."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of a run; all its other inputs are a function of this and of the configuration."""

    step: int  # training steps done
    optimizer_steps: int  # optimizer steps done: the position in every schedule
    prompts: int | None = None  # prompts used so far: the position in the data; schemas 1 and 2 lack it
    world_size: int
    zero_stage: int
    precision: str = "fp32"
    lora: dict[str, Any] | None = None  # settings of the adapters; None without adapters
    loss: dict[str, Any]  # identity and parameters
    loss_state: dict[str, float] = field(default_factory=dict)  # state of a loss that adapts
    loss_changes: tuple[dict[str, Any], ...] = ()  # accepted changes of the loss, each with its step
