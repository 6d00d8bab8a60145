"""The entry point of training: `main` checks everything before it imports torch, then trains.

It is called by `skyrl train`, which can start several processes, by `python -m skyrl_train.entrypoints.main_base`, by
`accelerate launch -m skyrl_train.entrypoints.main_base`, and by scripts that register a loss::

    register_policy_loss("my_custom_loss", MyCustomPolicyLoss)
    main()
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext

from skyrl_core.cli import error_line
from skyrl_core.errors import SkyrlError
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.problem import raise_problems
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.entrypoints.arguments import TrainArguments, parse_arguments
from skyrl_train.entrypoints.data_check import with_checked_data
from skyrl_train.entrypoints.dry_run import write_plan, write_plan_json
from skyrl_train.entrypoints.launch_check import check_launchable
from skyrl_train.entrypoints.machine_plan import plan_machine
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.machine.gc_pause import many_imports
from skyrl_train.ranks.exit_process import exit_process
from skyrl_train.ranks.launch import is_launched, launch, stop_with_launcher
from skyrl_train.ranks.stopping import Interrupted
from skyrl_train.tracking.output_capture import buffered_output, safe_output
from skyrl_train.tracking.screen import Screen, show_loading, stop_loading
from skyrl_train.tracking.stderr import say

CANNOT_START = 7
"""The exit code of a dry run if training would not start on this machine."""

INTERRUPTED = 130
"""The shell's exit code for a program that was ended by Ctrl-C."""

HEAD_START = 60.0
"""Seconds that other ranks give the first rank of a machine to report an error. A launcher ends all ranks once one has
exited, so if the first rank starts slowly, a shorter time would end it before it reports."""


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run the command line: check the configuration, then print the plan or train.

    Args:
        argv: arguments without the program's name; None takes those of this process.
        prog: what help and errors call the program; None takes the name of the script.

    Returns:
        0 on success. It never returns another value, so a script may end in a bare ``main()``.

    Raises:
        SystemExit: otherwise, with the exit code; the error is printed to stderr without a traceback.
    """
    arguments = sys.argv[1:] if argv is None else argv
    stop_with_launcher()
    try:
        run, parsed = _checked(arguments, prog or os.path.basename(sys.argv[0]) or "skyrl train")
        if parsed.dry_run:
            code = _dry_run(run, parsed.num_processes, as_json=parsed.json)
        elif parsed.num_processes > 1 and not is_launched():
            code = _launch(run, arguments, parsed.num_processes)
        else:
            _train(run)
            code = 0
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None  # the run has printed how to resume
    except KeyboardInterrupt:
        _report("interrupted", every_rank=False)
        raise SystemExit(INTERRUPTED) from None
    if code:
        raise SystemExit(code)
    return 0


def _checked(argv: Sequence[str], prog: str) -> tuple[ResolvedRun, TrainArguments]:
    try:
        arguments = parse_arguments(argv, prog)
        with buffered_output():  # of the modules of plugins, which are imported here
            run = resolve_run(
                load_environment,
                files=arguments.config_files,
                overrides=arguments.overrides,
                loss=arguments.loss,
                resume=arguments.resume,
                accept_loss_change=arguments.accept_loss_change,
                accept_changes=arguments.accept_changes,
                skip_damaged=arguments.skip_damaged,
            )
        if arguments.dry_run:
            _check_deepspeed(run)
        else:
            raise_problems(run.missing, "the run cannot start on this machine")
    except SkyrlError as error:
        if _local_rank() != 0:
            time.sleep(HEAD_START)
        # A rank that no launcher has ended by now has an error that the first rank does not have.
        _report(error_line(error), every_rank=_local_rank() != 0)
        raise SystemExit(error.exit_code) from error
    return run, arguments


def _check_deepspeed(run: ResolvedRun) -> None:
    """Check the options that are passed to DeepSpeed; without any, torch is not imported."""
    if run.config.trainer.deepspeed.extra:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is computed; otherwise DeepSpeed prints what it found
        from skyrl_train.trainer_engine.deepspeed_options import check_extra

        check_extra(run.config.trainer.deepspeed.extra)


def _dry_run(run: ResolvedRun, processes: int, *, as_json: bool) -> int:
    with buffered_output():
        if _rank() == 0:
            run = with_checked_data(run)
        machine = plan_machine(run, processes)
    if _rank() == 0:
        sys.stdout.write(write_plan_json(run, machine) if as_json else write_plan(run, machine))
    return CANNOT_START if machine.missing else 0


def _launch(run: ResolvedRun, argv: Sequence[str], processes: int) -> int:
    try:
        check_launchable(run, processes)
    except SkyrlError as error:
        _report(f"error: {error}", every_rank=False)
        raise SystemExit(error.exit_code) from error
    return launch(argv, processes)


def _train(run: ResolvedRun) -> None:
    try:
        with nullcontext() if Screen().takes_output else safe_output():
            _load_and_train(run)
    except SkyrlError as error:
        _report(error_line(error), every_rank=True)
        raise SystemExit(error.exit_code) from error


def _load_and_train(run: ResolvedRun) -> None:
    if _rank() == 0:
        show_loading(f"PyTorch, transformers and DeepSpeed, to train {run.config.model} with {run.loss.claim.name}")
    try:
        with many_imports("skyrl_train.training.build"):
            from skyrl_train.training.build import run_training
        run_training(run)
    finally:
        stop_loading()


def _report(message: str, *, every_rank: bool) -> None:
    """Print to stderr, on every rank or, for a message that all ranks share, once per machine."""
    if every_rank and _world_size() > 1:
        message = f"[rank {_rank()}] {message}"
    if every_rank or _local_rank() == 0:
        say(message)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


if __name__ == "__main__":
    exit_process(main)
