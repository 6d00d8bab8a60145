"""The metrics that a run may log: their names, labels, units and meaning. Any other name is logged and shown too."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Unit = Literal["number", "count", "percent", "seconds"]

STANDARD_ERROR = "/standard_error"
"""Suffix of the metric that holds the standard error of another one."""


@dataclass(frozen=True)
class MetricEntry:
    """One line of the glossary. ``pattern`` is the name, * where it varies; ``chart`` groups curves in the report."""

    pattern: str
    label: str  # empty: the name itself
    unit: Unit
    chart: str
    meaning: str


GLOSSARY: tuple[MetricEntry, ...] = (
    MetricEntry(
        "pass@*", "", "percent", "Accuracy", "Held-out problems with at least one right answer among k samples."
    ),
    MetricEntry("accuracy", "accuracy", "percent", "Accuracy", "Right answers among the samples of the step."),
    MetricEntry("reward/mean", "reward", "number", "Reward", "Mean reward of the samples."),
    MetricEntry("reward/*", "", "number", "Reward", "Other statistics of the rewards: std, min, max."),
    MetricEntry(
        "reward_errors", "reward errors", "count", "Reward errors", "Samples whose reward raised or timed out."
    ),
    MetricEntry("loss/total", "loss", "number", "Loss", "The scalar that was minimised, after the reduction."),
    MetricEntry("loss/*", "", "number", "Loss", "One term of the loss, in the same units as loss/total."),
    MetricEntry(
        "entropy", "entropy", "number", "Entropy", "Mean exact entropy of the policy per response token, in nats."
    ),
    MetricEntry("kl", "KL", "number", "KL", "Mean divergence from the reference model per response token, in nats."),
    MetricEntry(
        "kl/*", "", "number", "KL", "Other divergences per token, in nats, for example from the rollout policy."
    ),
    MetricEntry("clip_fraction_low", "clipped below", "percent", "Clip fraction", "Tokens clipped at the lower bound."),
    MetricEntry(
        "clip_fraction_high", "clipped above", "percent", "Clip fraction", "Tokens clipped at the upper bound."
    ),
    MetricEntry("ratio_*", "", "number", "Ratio", "Probability ratio of new to old policy per token: mean, max."),
    MetricEntry("approx_kl", "approx. KL", "number", "KL", "Mean divergence from the old policy per token, in nats."),
    MetricEntry(
        "advantage/*", "", "number", "Advantage", "Statistics of the advantages per sequence: mean, std, min, max."
    ),
    MetricEntry(
        "zero_variance_groups",
        "groups without signal",
        "percent",
        "Groups without signal",
        "Prompts whose samples all got the same reward.",
    ),
    MetricEntry(
        "skipped_sequences",
        "skipped",
        "percent",
        "Skipped sequences",
        "Sequences left out of the update by skip_zero_advantages; metrics of the loss are then of the others.",
    ),
    MetricEntry("grad_norm", "gradient norm", "number", "Gradient norm", "Norm of the whole gradient before clipping."),
    MetricEntry(
        "effective_tokens",
        "tokens that learn",
        "percent",
        "Tokens that learn",
        "Response tokens to whose log-prob the loss has a gradient: neither clipped nor of advantage 0.",
    ),
    MetricEntry(
        "grad_norm/*",
        "",
        "number",
        "Gradient norm of terms",
        "Norm of the gradient of one term of the loss to the log-probs and the entropy of all tokens.",
    ),
    MetricEntry("learning_rate", "learning rate", "number", "Learning rate", "Learning rate of the step."),
    MetricEntry(
        "schedule/*", "", "number", "Schedules", "What a schedule says at the first optimizer step of the step."
    ),
    MetricEntry(
        "kl_reward/mean", "KL penalty", "number", "KL", "What the KL to the reference took off the reward of a sample."
    ),
    MetricEntry("mismatch_kl", "mismatch KL", "number", "Mismatch", "KL from rollout engine to trainer, per token."),
    MetricEntry("mismatch_*", "", "number", "Mismatch", "How far rollout engine and trainer are apart: largest ratio."),
    MetricEntry(
        "staleness/*",
        "",
        "number",
        "Staleness",
        "Optimizer steps between the policy that drew a sample and the one that it trains: mean, max.",
    ),
    MetricEntry(
        "probe_deviation",
        "",
        "number",
        "Mismatch",
        "Mean absolute log-prob difference of engine and trainer after the sync.",
    ),
    MetricEntry(
        "correction_kept", "kept", "percent", "Off-policy correction", "Tokens with a weight above 0 after correction."
    ),
    MetricEntry("correction_*", "", "number", "Off-policy correction", "Weight of a token: mean, max."),
    MetricEntry("response_length/mean", "length", "number", "Response length", "Mean number of response tokens."),
    MetricEntry(
        "response_length/*", "", "number", "Response length", "Other statistics of the response length: min, max."
    ),
    MetricEntry(
        "finished", "finished", "percent", "Finished", "Responses that ended by themselves before the token limit."
    ),
    MetricEntry(
        "tokens_per_second", "tokens/s", "count", "Speed", "Response tokens of all ranks per second of the step."
    ),
    MetricEntry("time/*", "", "seconds", "Time", "Seconds of one phase of the step, for example time/generate."),
    MetricEntry("memory/*", "", "number", "Memory", "Memory in GiB."),
)


def describe(name: str) -> MetricEntry:
    """The glossary's entry with the label filled in; a name that is not in it is a number in a chart of its prefix."""
    for entry in GLOSSARY:
        if fnmatchcase(name, entry.pattern):
            return entry if entry.label else MetricEntry(name, _label(name), entry.unit, entry.chart, entry.meaning)
    prefix = name.split("/")[0]
    return MetricEntry(name, _label(name), "number", prefix.replace("_", " ").capitalize(), "")


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names in the order of the glossary, unknown ones last; standard errors are left out."""
    patterns = [entry.pattern for entry in GLOSSARY]

    def rank(name: str) -> tuple[int, list[int], str]:
        matches = (index for index, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
        numbers = [int(part) for part in name.replace("@", " ").split() if part.isdigit()]
        return next(matches, len(patterns)), numbers, name

    return sorted((name for name in names if not name.endswith(STANDARD_ERROR)), key=rank)


def format_metric(name: str, metrics: Mapping[str, float | None]) -> str:
    """The value of one metric with its unit, and its standard error where there is one: ``46.9% ± 3.5``."""
    unit, error = describe(name).unit, metrics.get(name + STANDARD_ERROR)
    text = format_value(metrics.get(name), unit)
    if error is None or not math.isfinite(error):
        return text
    return f"{text} ± {format_value(error, unit).rstrip('%')}"


def format_value(value: float | None, unit: Unit) -> str:
    """One number for people: three or four digits, percents of fractions, a dash for nothing."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if unit == "percent":
        return f"{100 * value:.1f}%"
    if unit in ("seconds", "count"):
        return f"{value:.2f} s" if unit == "seconds" else f"{value:,.0f}"
    size = abs(value)
    if size == 0:
        return "0"
    digits = ((10_000, ",.0f"), (100, ".1f"), (1, ".2f"), (0.001, ".4f"))
    return format(value, next((form for bound, form in digits if size >= bound), ".2e"))


def format_change(name: str, before: float | None, after: float | None) -> str:
    """The difference with its sign; percentage points for fractions."""
    if before is None or after is None or not math.isfinite(after - before):
        return ""
    unit = describe(name).unit
    text = format_value(abs(after - before), unit)
    if unit == "percent":
        text = f"{text.rstrip('%')} points"
    return text if after == before else f"{'-' if after < before else '+'}{text}"


def format_duration(seconds: float) -> str:
    """Hours, minutes, seconds: ``1:02:03``, or ``2:05`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _label(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")
