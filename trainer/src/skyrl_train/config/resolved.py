"""A validated run: the input of training, and the content of `config.yaml` in the run folder."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from skyrl_core.discovery import Claim
from skyrl_core.redaction import redact_arguments, redacted
from skyrl_core.registry import ResolvedEstimator, ResolvedLoss
from skyrl_train.config.problem import Problem
from skyrl_train.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """The configuration with its plugins, each looked up once, and the sources of both."""

    config: RunConfig
    loss: ResolvedLoss
    estimator: ResolvedEstimator
    environment: Any  # the configured skyrl_train.environments.environment.Environment with its parameters
    engine: Claim
    trackers: tuple[Claim, ...] = ()
    observers: tuple[Claim, ...] = ()
    quickstart: bool = False  # whether the quickstart settings are the defaults
    files: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    python_call: bool = False  # whether Python code started it, so that no command line can repeat it
    resume: Path | None = None  # a run folder or a checkpoint in one
    accept_loss_change: bool = False
    accept_changes: bool = False  # of anything that changes the course of a resumed run, the loss included
    skip_damaged: bool = False  # resume from the newest intact checkpoint
    missing: tuple[Problem, ...] = ()  # what training needs and this machine lacks; empty if training can start
    data: tuple[str, ...] = ()  # what the dry run found in the data
    notes: tuple[str, ...] = ()  # what is allowed but probably not intended

    def as_dict(self) -> dict[str, Any]:
        """The complete configuration as JSON values in schema order; loading it gives the same run.

        Secrets are redacted, because it is written, sent and printed; loading a redacted value is an error.
        """
        values = self.config.model_dump(mode="json")
        algorithm = values["trainer"]["algorithm"]
        for plugin in (self.estimator, self.loss):
            if plugin.params:
                algorithm[plugin.claim.name] = plugin.params
        return cast(dict[str, Any], redacted(values))

    @cached_property
    def holds_secrets(self) -> bool:
        """Whether an option or the command line has a secret, so that files of the run may repeat it."""
        values = self.config.model_dump(mode="json")
        return redacted(values) != values or redact_arguments(sys.argv) != sys.argv
