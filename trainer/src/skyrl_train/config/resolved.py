"""A validated run: the input of training, and the content of `config.yaml` in the run folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyrl_core.registry import loss_name
from skyrl_train.config.problem import Problem
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.yaml_text import write_yaml


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """The configuration with the parameters of its loss and estimator, and how it came to be."""

    config: RunConfig
    loss_reference: str  # a name, or `distribution:name`, and maybe `@` and its semantics version
    loss_params: dict[str, Any] = field(default_factory=dict)  # with defaults if the loss is typed, else as given
    estimator_params: dict[str, Any] = field(default_factory=dict)  # likewise
    quickstart: bool = False  # options that nobody set have the quickstart's values, where it has some
    files: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    resume: Path | None = None  # a run folder or a checkpoint in one
    accept_loss_change: bool = False
    skip_damaged: bool = False  # resume from the newest intact checkpoint
    missing: tuple[Problem, ...] = ()  # what training needs and this machine lacks; empty if training can start
    notes: tuple[str, ...] = ()  # what is allowed but probably not intended

    def as_dict(self) -> dict[str, Any]:
        """The complete configuration as JSON values in schema order; loading it gives the same run."""
        values = self.config.model_dump(mode="json")
        algorithm = values["trainer"]["algorithm"]
        for name, params in (
            (loss_name(self.config.trainer.algorithm.advantage_estimator), self.estimator_params),
            (loss_name(self.loss_reference), self.loss_params),
        ):
            if params:
                algorithm[name] = params
        return values

    def to_yaml(self) -> str:
        """`as_dict` as YAML; equal runs give equal bytes."""
        return write_yaml(self.as_dict())
