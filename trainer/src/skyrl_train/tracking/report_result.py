"""The result of a run for the top of the report: before, after, the change and how the run ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skyrl_train.tracking.history import History, Metrics
from skyrl_train.tracking.metric_glossary import (
    STANDARD_ERROR,
    by_evaluation_set,
    describe,
    evaluation_set,
    format_change,
    format_duration,
    format_metric,
    format_value,
    in_order,
)

HEADLINES = ("accuracy", "reward/mean")
"""The metric of the headline: the first that the run has."""
COMPARED_SHARE = 0.1
"""Share of the steps at either end that a run without evaluations compares."""


@dataclass(frozen=True)
class Headline:
    """The number that a reader looks for first. ``sign`` is ``up``, ``down``, or empty for a change within noise."""

    label: str
    before: str
    after: str
    change: str
    sign: str
    note: str


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of one set of held-out problems: label, before, after, change."""

    name: str
    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Result:
    """The evaluations of a run before and after training. ``step`` is that of the later one."""

    headline: Headline | None
    sets: tuple[EvaluationSet, ...]
    step: int
    has_accuracy: bool


def read_result(run: Mapping[str, Any], history: History) -> Result:
    """The result, from run.json if the run has ended, else from the evaluations and steps so far."""
    latest_step, latest = history.after or (0, {})
    before = by_evaluation_set(run.get("before") or history.before or {})
    after = by_evaluation_set(run.get("after") or latest)
    names = sorted({**before, **after}, key=lambda name: name != "")
    sets = tuple(EvaluationSet(name, comparison_rows(before.get(name, {}), after.get(name, {}))) for name in names)
    headline = next(filter(None, (_headline(n, before.get(n, {}), after.get(n, {})) for n in names)), None)
    return Result(
        headline=headline or _training_headline(history),
        sets=sets,
        step=int(run.get("last_step") or 0) if run.get("after") else latest_step,
        has_accuracy=any("accuracy" in metrics for metrics in (*before.values(), *after.values())),
    )


def describe_end(status: str, run: Mapping[str, Any], history: History) -> str:
    """How the run ended, in one sentence: ``Finished: 50 of 50 steps in 1:27.``"""
    done = max(history.last_step, int(run.get("last_step") or 0))
    steps = f"{done} of {run['total_steps']} steps" if run.get("total_steps") else f"{done} steps"
    seconds = run.get("training_seconds")
    return f"{status.capitalize()}: {steps}{f' in {format_duration(seconds)}' if seconds is not None else ''}."


def describe_failures(run: Mapping[str, Any]) -> str:
    """The steps whose evaluation failed, with the first reason; empty if none did."""
    found = run.get("failed_evaluations")
    failed = [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []
    steps = ", ".join(str(failure.get("step")) for failure in failed)
    return f"step {steps}: {failed[0].get('error')}" if failed else ""


def comparison_rows(before: Metrics, after: Metrics) -> tuple[tuple[str, str, str, str], ...]:
    """A row of label, before, after and change for each metric of two evaluations, set by set."""
    return tuple(
        (
            describe(name).label,
            format_metric(name, before),
            format_metric(name, after),
            format_change(name, before.get(name), after.get(name)),
        )
        for name in sorted(in_order({**before, **after}), key=lambda name: evaluation_set(name)[0])
    )


def _headline(set_name: str, before: Metrics, after: Metrics) -> Headline | None:
    name = next((name for name in HEADLINES if name in before or name in after), None)
    if name is None:
        return None
    first, last = before.get(name), after.get(name)
    noise = _noise(name, before, after)
    is_noise = noise is not None and first is not None and last is not None and abs(last - first) < 2 * noise
    on = f"held-out problems of {set_name}" if set_name else "held-out problems"
    return Headline(
        label=f"{describe(name).label} on {on}",
        before=format_metric(name, before) if name in before else "",
        after=format_metric(name, after) if name in after else "",
        change=format_change(name, first, last),
        sign="" if is_noise else _sign(first, last),
        note=_note(is_noise=is_noise, has_errors=bool(before.get(name + STANDARD_ERROR))),
    )


def _training_headline(history: History) -> Headline | None:
    """The reward of a run without evaluations: the mean of its first steps and of its last."""
    values = [value for step in sorted(history.train) if (value := history.train[step].get("reward/mean")) is not None]
    if not values:
        return None
    count = max(1, round(COMPARED_SHARE * len(values)))
    first, last = sum(values[:count]) / count, sum(values[-count:]) / count
    steps = "step" if count == 1 else f"{count} steps"
    return Headline(
        label="reward in training",
        before=format_value(first, "number"),
        after=format_value(last, "number"),
        change=format_change("reward/mean", first, last),
        sign=_sign(first, last),
        note=f"The first {steps} and the last {steps}. This run has no evaluation.",
    )


def _noise(name: str, before: Metrics, after: Metrics) -> float | None:
    """The standard error of the difference, as if the two evaluations were independent."""
    errors = [metrics.get(name + STANDARD_ERROR) for metrics in (before, after)]
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return math.hypot(*known) if len(known) == 2 else None


def _note(*, is_noise: bool, has_errors: bool) -> str:
    if is_noise:
        return "The change is below two standard errors: it may be chance. More evaluation prompts would tell."
    return "± is one standard error." if has_errors else ""


def _sign(first: float | None, last: float | None) -> str:
    if first is None or last is None or first == last:
        return ""
    return "up" if last > first else "down"
