"""How far a run has come: what a checkpoint saves besides tensors."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; everything else that it draws on is a function of this and of the config."""

    step: int  # training steps done
    optimizer_steps: int  # where every schedule stands
    prompts: int | None = None  # drawn so far: the place in the data; None in schemas 1 and 2, which did not say it
    world_size: int
    zero_stage: int
    precision: str = "fp32"
    lora: dict[str, Any] | None = None  # what adapters there are, if any
    loss: dict[str, Any]  # identity and parameters
    loss_state: dict[str, float] = field(default_factory=dict)  # what a loss that adapts has arrived at
    loss_changes: tuple[dict[str, Any], ...] = ()  # changes of the loss that were accepted, with the step
