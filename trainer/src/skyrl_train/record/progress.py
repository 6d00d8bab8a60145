"""The progress of a run: the part of its state that a checkpoint saves besides tensors."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=0, le=10**15)]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What the course of a run depends on besides its progress; resuming with something else is another run."""

    options: dict[str, Any] = field(default_factory=dict)  # by dotted key, those that change the course or the curves
    content: dict[str, str] = field(default_factory=dict)  # SHA-256 of environments, the estimator, the base model
    packages: dict[str, str] = field(default_factory=dict)  # versions of those that compute the numbers
    data: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # by option: rows, their SHA-256, that of their tokens


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of a run; all its other inputs are a function of this and of the configuration."""

    step: Count  # training steps done
    optimizer_steps: Count  # optimizer steps done: the position in every schedule
    prompts: Count | None = None  # prompts used so far: the position in the data; schemas 1 and 2 lack it
    world_size: Annotated[Count, Field(ge=1)]
    zero_stage: Literal[0, 1, 2, 3]
    precision: Precision = "fp32"
    lora: dict[str, Any] | None = None  # settings of the adapters; None without adapters
    loss: dict[str, Any]  # identity and parameters
    loss_state: dict[str, float] = field(default_factory=dict)  # state of a loss that adapts
    loss_changes: tuple[dict[str, Any], ...] = ()  # accepted changes of the loss, each with its step
    fingerprint: Fingerprint | None = None  # schemas 1 to 3 lack it
    accepted_changes: tuple[dict[str, Any], ...] = ()  # of options, data and code, each with its step
