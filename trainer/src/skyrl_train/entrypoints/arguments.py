"""Parses the command line of a run: `--options` and `a.b=value` overrides, in any order."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from skyrl_core.cli import CommandParser, complete_loss
from skyrl_core.discovery import printable
from skyrl_core.errors import SkyrlError, nearest
from skyrl_train.config.override_completion import complete_override
from skyrl_train.ranks.launch import OPTION

DESCRIPTION = "Train a language model with any installed policy loss."
EPILOG = """\
Without --config and without a model it trains the tiny model that comes with skyrl-train, with settings that suit it.
OVERRIDE is an option of the configuration with its value, such as trainer.optimizer.learning_rate=1e-5 or
trainer.algorithm.LOSS.PARAMETER=0.02. The value is YAML; overrides take precedence over files.
`skyrl config` lists every option, `skyrl losses list` every loss.
"""
EXAMPLES = (
    "skyrl train --loss gspo --dry-run",
    "skyrl train --loss gspo trainer.steps=50 trainer.optimizer.learning_rate=1e-5",
    "skyrl train --config run.yaml --num-processes 4",
    "skyrl train --resume runs/gspo-20260101-120000 trainer.steps=200",
)
MAX_PROCESSES = 1024
"""On one machine; far more than any has GPUs."""
RESUME = "continue a run from its folder or from one of its checkpoints; without FOLDER, from run_folder"


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """The parsed command line; its values are not validated yet."""

    config_files: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    loss: str | None = None
    resume: str | None = None  # empty: the run folder that the configuration names
    accept_loss_change: bool = False
    accept_changes: bool = False
    skip_damaged: bool = False
    num_processes: int = 1
    dry_run: bool = False
    json: bool = False


class _Parser(CommandParser):
    """Raises instead of exiting, so that all errors are printed in one place."""

    def error(self, message: str) -> NoReturn:
        raise SkyrlError(message if "--" in message else f"{message}; `{self.prog} --help` shows the options")

    def unknown_message(self, option: str) -> str:
        match = nearest(option.partition("=")[0], self.option_names())
        if match:
            hint = f"did you mean {match}?"
        elif "." in option.partition("=")[0]:
            hint = f"write an override without dashes: {option.lstrip('-')}"
        else:
            hint = f"`{self.prog} --help` shows the options"
        return f"unknown option {printable(option, escape=True)}; {hint}"


def parse_arguments(argv: Sequence[str], prog: str) -> TrainArguments:
    """Read the command line.

    Raises:
        SkyrlError: an option is unknown or lacks its value.
    """
    parser = _parser(prog)
    parsed, unknown = parser.parse_known_args(_with_explicit_resume(argv))
    if not 1 <= parsed.num_processes <= MAX_PROCESSES:
        raise SkyrlError(f"{OPTION} {parsed.num_processes}: must be from 1 to {MAX_PROCESSES}, one for each GPU")
    if parsed.skip_damaged and parsed.resume is None:
        raise SkyrlError("--skip-damaged selects the checkpoint to resume from; it needs --resume")
    if parsed.accept_changes and parsed.resume is None:
        raise SkyrlError("--accept-changes accepts changes since a checkpoint; it needs --resume")
    if parsed.json and not parsed.dry_run:
        raise SkyrlError("--json prints the plan as JSON; it needs --dry-run")
    lists = {"config_files": tuple(parsed.config_files), "overrides": (*parsed.overrides, *unknown)}
    del parsed.local_rank
    return TrainArguments(**vars(parsed) | lists)


def _parser(prog: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=DESCRIPTION,
        epilog=EPILOG,
        examples=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    files = "a YAML file; may be repeated, later files override earlier ones"
    add("--config", dest="config_files", type=Path, action="append", default=[], metavar="FILE", help=files)
    loss = add("--loss", metavar="NAME", help="the policy loss: trainer.algorithm.policy_loss_type")
    add(OPTION, type=int, default=1, metavar="N", help="train with N processes on this machine, one for each GPU")
    add("--dry-run", action="store_true", help="check the configuration, print the plan and exit")
    add("--json", action="store_true", help="print the plan as JSON")
    add("--resume", nargs="?", const="", metavar="FOLDER", help=RESUME)
    add("--accept-loss-change", action="store_true", help="resume although the loss or its parameters changed")
    add("--accept-changes", action="store_true", help="resume although options, data, code or the loss changed")
    add("--skip-damaged", action="store_true", help="resume from the newest intact checkpoint")
    # Launchers of the torch.distributed family pass this; the environment variables say the same.
    add("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    overrides = add("overrides", nargs="*", metavar="OVERRIDE", help="such as trainer.steps=10")
    loss.completer = complete_loss  # type: ignore[attr-defined] # argcomplete reads it
    overrides.completer = complete_override  # type: ignore[attr-defined]
    return parser


def _with_explicit_resume(argv: Sequence[str]) -> list[str]:
    """`--resume` as `--resume=` if no folder follows: argparse would take an override for its value."""
    arguments = list(argv)
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "--"
        is_override = "=" in following and not os.path.exists(following)
        if argument == "--resume" and (following.startswith("-") or is_override):
            arguments[index] = "--resume="
    return arguments
