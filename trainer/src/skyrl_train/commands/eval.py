"""Measure a model or a run on held-out problems: pass@1 and pass@k with confidence intervals."""
# PYTHON_ARGCOMPLETE_OK

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from skyrl_core.cli import CommandParser
from skyrl_core.discovery import printable, safe_to_print
from skyrl_core.errors import SkyrlError
from skyrl_core.lookup import checked_path
from skyrl_train.config.load_config import NO_REMOTE_CODE, resolve_run, run_folder_of
from skyrl_train.config.override_completion import complete_override
from skyrl_train.config.problem import raise_problems
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.machine.gc_pause import many_imports
from skyrl_train.tracking.output_capture import buffered_output
from skyrl_train.tracking.screen import shown_while
from skyrl_train.tracking.stderr import say

if TYPE_CHECKING:
    from skyrl_train.training.evaluate_model import Assessment, Change

SCHEMA_VERSION = 1
EXAMPLES = (
    "skyrl eval runs/gspo-20260101-120000",
    "skyrl eval tiny --environment arithmetic --prompts 500",
    "skyrl eval Qwen/Qwen3-0.6B --environment gsm8k --samples 8 --json",
    "skyrl eval runs/gspo-20260101-120000 --baseline tiny",
)

NOTHING_TRAINS = "nothing is trained"
NOT_RECORDED = "an evaluation writes no run folder"
UNUSED = {
    "model": "the first argument names the model",
    "evaluation.every": "it evaluates once",
    "rollout.temperature": "set evaluation.temperature",
    "rollout.async": NOTHING_TRAINS,
    "data.train": NOTHING_TRAINS,
    "data.train_split": NOTHING_TRAINS,
    "data.shuffle": "held-out problems are taken in order",
    "trainer": NOTHING_TRAINS,
    "run_folder": NOT_RECORDED,
    "checkpoint": NOT_RECORDED,
    "tracking": NOT_RECORDED,
    "plugins.observers": NOTHING_TRAINS,
}
"""Options that an evaluation does not use, with the reason."""
USED = "trainer.deepspeed.precision"
"""The exception: the type of the weights."""


def main(argv: Sequence[str] | None = None) -> int:
    """Sample answers, compute their rewards, and print a table or JSON.

    Raises:
        SkyrlError: the configuration is invalid, or the model cannot be loaded.
    """
    arguments = _parser().parse_intermixed_args(argv)
    run = _resolve(arguments)
    baseline = _resolve(arguments, arguments.baseline) if arguments.baseline else None
    with many_imports("skyrl_train.training.evaluate_model"):
        from skyrl_train.training.evaluate_model import assess, changes
    settings = run.config.evaluation
    what = f"{settings.prompts} problems x {settings.samples_per_prompt}"
    with shown_while(f"sampling answers to {what} ..."):
        assessment = assess(arguments.target, run)
        before = assess(arguments.baseline, baseline) if baseline is not None else None
    found = changes(before, assessment, settings.samples_per_prompt) if before is not None else {}
    for note in assessment.notes:
        say(safe_to_print(note))
    if arguments.json:
        content = _content(arguments.target, run, assessment)
        if before is not None:
            content["baseline"] = _baseline(arguments.baseline, before, found)
        print(json.dumps(content, indent=2))
        return 0
    _print(arguments.target, run, assessment)
    if before is not None:
        _print_changes(arguments.baseline, before, found)
    return 0


def _parser() -> CommandParser:
    about = "Measure a model or a run on held-out problems: pass@1 and pass@k."
    parser = CommandParser(prog="skyrl eval", description=about, examples=EXAMPLES)
    add = parser.add_argument
    add(
        "target",
        metavar="MODEL_OR_RUN",
        help="a run folder or a checkpoint in one, a model folder, `tiny`, or a hub name",
    )
    add("--environment", metavar="NAME", help="environment.name; default: that of the run")
    add("--prompts", type=int, metavar="N", help="evaluation.prompts: the number of held-out problems")
    add("--samples", type=int, metavar="K", help="evaluation.samples_per_prompt: k of pass@k")
    add("--temperature", type=float, metavar="T", help="evaluation.temperature; 0 is greedy")
    add("--baseline", metavar="MODEL_OR_RUN", help="a second model; prints the change from it on the same problems")
    add("--config", type=Path, action="append", default=[], metavar="FILE", help="a configuration file of the run")
    add("--json", action="store_true", help="print JSON")
    about = "any option of a run, such as rollout.max_new_tokens=64"
    overrides = add("overrides", nargs="*", metavar="OVERRIDE", help=about)
    overrides.completer = complete_override  # type: ignore[attr-defined] # argcomplete reads it
    return parser


def _resolve(arguments: argparse.Namespace, target: str | None = None) -> ResolvedRun:
    """The configuration for a model, by default the first argument."""
    target = target or arguments.target
    given = {
        "environment.name": arguments.environment,
        "evaluation.prompts": arguments.prompts,
        "evaluation.samples_per_prompt": arguments.samples,
        "evaluation.temperature": arguments.temperature,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    overrides.append("rollout.async=none")  # nothing trains, so any rollout engine will do
    files, folder = list(arguments.config), run_folder_of(checked_path(target))
    if folder is not None:
        files = [folder / "config.yaml", *files]
        overrides.append(NO_REMOTE_CODE)
    else:
        overrides.append(f"model={json.dumps(target)}")
    _refuse_unused(arguments.overrides)
    with buffered_output():  # of the modules of plugins, which are imported here
        run = resolve_run(load_environment, files=files, overrides=[*overrides, *arguments.overrides])
    missing = [problem for problem in run.missing if problem.key != "data.train"]  # nothing trains
    raise_problems(missing, "the model cannot be measured on this machine")
    if run.config.evaluation.prompts == 0:
        raise SkyrlError("evaluation.prompts is 0, so there are no problems to measure on; give --prompts N")
    return run


def _refuse_unused(overrides: Sequence[str]) -> None:
    """Refuse overrides that an evaluation would not use.

    Raises:
        SkyrlError: lists each of them with the reason.
    """
    refused = []
    for override in overrides:
        key = override.lstrip("+").partition("=")[0].strip()
        reason = next((why for start, why in UNUSED.items() if key == start or key.startswith(f"{start}.")), None)
        if reason is not None and not key.startswith(USED):
            refused.append(f"  {printable(override, escape=True)}: {reason}")
    if refused:
        raise SkyrlError("skyrl eval does not use these options; remove them:\n" + "\n".join(refused))


def _content(target: str, run: ResolvedRun, assessment: "Assessment") -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target,
        "environment": run.config.environment.name,
        "prompts": assessment.prompts,
        "samples_per_prompt": run.config.evaluation.samples_per_prompt,
        "temperature": run.config.evaluation.temperature,
        "measures": _measures(assessment),
        "metrics": assessment.evaluation.metrics,
    }


def _measures(assessment: "Assessment") -> dict[str, Any]:
    return {
        name: {"value": value, "low": assessment.intervals[name][0], "high": assessment.intervals[name][1]}
        for name, value in assessment.measures.items()
    }


def _baseline(target: str, before: "Assessment", found: Mapping[str, "Change"]) -> dict[str, Any]:
    changes = {
        name: {
            "value": change.value,
            "low": change.interval[0],
            "high": change.interval[1],
            "problems": change.problems,
        }
        for name, change in found.items()
    }
    return {"target": target, "measures": _measures(before), "changes": changes}


def _print_changes(target: str, before: "Assessment", found: Mapping[str, "Change"]) -> None:
    print(f"\nchange from {target}, on the same problems:")
    table = Table(box=None, pad_edge=False)
    for column in ("", "baseline", "change in points", "95 % interval", "problems"):
        table.add_column(column, justify="left" if not column else "right")
    for name, change in found.items():
        low, high = (f"{100 * end:+.1f}" for end in change.interval)
        values = (
            f"{before.measures[name]:.1%}",
            f"{100 * change.value:+.1f}",
            f"{low} to {high}",
            str(change.problems),
        )
        table.add_row(name, *values)
    Console().print(table)


def _print(target: str, run: ResolvedRun, assessment: "Assessment") -> None:
    settings, metrics = run.config.evaluation, assessment.evaluation.metrics
    samples = f"{settings.samples_per_prompt} sample{'s' if settings.samples_per_prompt > 1 else ''} each"
    target = printable(target, escape=True)
    print(f"{target} on {run.config.environment.name}: {assessment.prompts} held-out problems, {samples}, ", end="")
    print(f"temperature {settings.temperature:g}")
    table = Table(box=None, pad_edge=False)
    for column in ("", "value", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in assessment.measures.items():
        low, high = assessment.intervals[name]
        table.add_row(name, f"{value:.1%}", f"{low:.1%} to {high:.1%}")
    for name in run.config.data.evaluation_sets or ("",):
        prefix = f"{name}/" if name else ""
        table.add_row(f"{prefix}reward", f"{metrics[f'{prefix}reward/mean']:.4f}", "")
        table.add_row(f"{prefix}length", f"{metrics[f'{prefix}response_length/mean']:.1f}", "")
    Console().print(table)
