"""The glossary of metrics: name, label, unit and meaning of each metric that the trainer and its losses log."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

Unit = Literal["number", "count", "percent", "seconds"]

Value = TypeVar("Value")

PREFIX = "evaluation/"
STANDARD_ERROR = "/standard_error"
"""Suffix of the metric that holds the standard error of another metric."""


@dataclass(frozen=True)
class MetricEntry:
    """One line of the glossary. Metrics of one chart share a figure of the report."""

    pattern: str  # the name, with * for a part that varies
    meaning: str
    unit: Unit = "number"
    chart: str = ""  # if empty, from the first part of the name
    label: str = ""  # if empty, from the name


GLOSSARY: tuple[MetricEntry, ...] = (
    MetricEntry(
        "accuracy",
        "Mean share of correct samples per held-out problem, which is pass@1. Higher is better. Logged if "
        "the environment says which rewards solve a problem.",
        "percent",
        "Accuracy",
    ),
    MetricEntry(
        "pass@*",
        "Share of held-out problems with at least one correct answer in k samples. Higher is better.",
        "percent",
        "Accuracy",
    ),
    MetricEntry("reward/mean", "Mean reward of the samples. Higher is better.", label="reward"),
    MetricEntry("reward/std", "Standard deviation of the rewards."),
    MetricEntry("reward/*/mean", "Mean of one of several rewards, before its weight in environment.weights."),
    MetricEntry(
        "reward_errors", "Number of samples whose reward raised an error or timed out. They are left out.", "count"
    ),
    MetricEntry(
        "no_verdict",
        "Number of samples that are left out: their reward is None, raised an error or timed out.",
        "count",
    ),
    MetricEntry("loss/total", "The scalar that the optimizer minimises, after the reduction.", label="loss"),
    MetricEntry("loss/*", "One term of the loss, with its coefficient."),
    MetricEntry("entropy", "Mean entropy of the policy per response token, in nats; exact, not estimated."),
    MetricEntry(
        "kl", "Mean KL to the reference model per response token, in nats.", chart="KL", label="KL to the reference"
    ),
    MetricEntry(
        "kl_reward/mean",
        "Mean amount subtracted from a sample's reward for its KL to the reference model.",
        chart="KL",
        label="KL penalty",
    ),
    MetricEntry(
        "clip_fraction_low",
        "Share of response tokens that the lower bound of the loss clips or drops.",
        "percent",
        "Clip fraction",
        label="clipped below",
    ),
    MetricEntry(
        "clip_fraction_high",
        "Share of response tokens that the upper bound of the loss clips or drops.",
        "percent",
        "Clip fraction",
        label="clipped above",
    ),
    MetricEntry(
        "clip_fraction_dual",
        "Share of response tokens that the second bound of dual_clip clips.",
        "percent",
        "Clip fraction",
        label="dual-clipped",
    ),
    MetricEntry(
        "kept_fraction",
        "Share of response tokens that the loss does not drop.",
        "percent",
        "Kept tokens",
        label="kept by the loss",
    ),
    MetricEntry(
        "penalised_fraction",
        "Share of response tokens that kl_cov penalises.",
        "percent",
        "Penalised tokens",
        label="penalised",
    ),
    MetricEntry(
        "ratio_mean",
        "Mean importance ratio in the loss: current policy over old policy or rollout engine.",
        chart="Ratio",
    ),
    MetricEntry("ratio_max", "Largest importance ratio in the loss.", chart="Ratio"),
    MetricEntry(
        "approx_kl",
        "Mean KL between the two policies of that ratio, estimated per response token, in nats.",
        chart="KL",
        label="approx. KL",
    ),
    MetricEntry(
        "gate_mean", "Mean share of its gradient that a response token keeps in sapo.", chart="Weight in the loss"
    ),
    MetricEntry("kernel_mean", "Mean weight that vespo gives to a response token.", chart="Weight in the loss"),
    MetricEntry(
        "behave_weight_mean", "Mean weight that decoupled_ppo gives to a response token.", chart="Weight in the loss"
    ),
    MetricEntry("binary_kl_max", "Largest binary KL between policy and rollout engine in kpop, in nats.", chart="KL"),
    MetricEntry(
        "nll_mean",
        "Mean negative log-prob of a response token in cross_entropy, in nats. Lower is better.",
        chart="Negative log-prob",
    ),
    MetricEntry("zero_variance_groups", "Share of prompts whose samples all got the same reward.", "percent"),
    MetricEntry(
        "skipped_sequences",
        "Share of sequences left out of the update, and of the loss's metrics, by skip_zero_advantages.",
        "percent",
    ),
    MetricEntry(
        "effective_tokens", "Share of response tokens whose log-prob gets a gradient from the loss.", "percent"
    ),
    MetricEntry(
        "grad_norm",
        "Gradient norm of all parameters before clipping, averaged over optimizer steps.",
        chart="Gradient norm",
        label="gradient norm",
    ),
    MetricEntry(
        "grad_norm/*",
        "Norm of one loss term's gradient with respect to all log-probs and entropies.",
        chart="Gradient norm of loss terms",
    ),
    MetricEntry("learning_rate", "Learning rate of the last optimizer step."),
    MetricEntry("schedule/*", "Value of a scheduled option at the first optimizer step.", chart="Schedules"),
    MetricEntry(
        "mismatch_kl",
        "Mean KL from rollout engine to trainer per response token, in nats. Lower is better.",
        chart="Mismatch",
        label="mismatch KL",
    ),
    MetricEntry(
        "mismatch_ratio_max", "Largest probability ratio of trainer to rollout engine. 1 is ideal.", chart="Mismatch"
    ),
    MetricEntry(
        "probe_deviation",
        "Mean absolute log-prob difference after the weight sync, in nats. Lower is better.",
        chart="Mismatch",
    ),
    MetricEntry("staleness/mean", "Mean age of the weights that generated a sample, in optimizer steps."),
    MetricEntry("staleness/max", "Largest age of the weights that generated a sample, in optimizer steps."),
    MetricEntry(
        "correction_kept",
        "Share of response tokens with a weight above 0 after off-policy correction.",
        "percent",
        "Kept tokens",
        label="kept by the correction",
    ),
    MetricEntry(
        "correction_mean", "Mean off-policy correction weight of a response token.", chart="Off-policy correction"
    ),
    MetricEntry(
        "correction_max", "Largest off-policy correction weight of a response token.", chart="Off-policy correction"
    ),
    MetricEntry("response_length/mean", "Mean number of tokens in a response.", label="length"),
    MetricEntry("response_length/max", "Largest number of tokens in a response."),
    MetricEntry("finished", "Share of responses that ended before the token limit.", "percent"),
    MetricEntry(
        "tokens_per_second",
        "Response tokens of all ranks per second of the step. Higher is better.",
        "count",
        "Speed",
        label="tokens/s",
    ),
    MetricEntry("time/step", "Duration of the training step, without evaluation and checkpoint.", "seconds"),
    MetricEntry("time/rollout", "Time to generate and reward the samples.", "seconds"),
    MetricEntry(
        "time/score", "Time to compute old log-probs, reference log-probs and advantages, as needed.", "seconds"
    ),
    MetricEntry("time/update", "Time of the forward and backward passes and the optimizer steps.", "seconds"),
    MetricEntry("time/sync", "Time to send the weights to the rollout engine and to probe it.", "seconds"),
)


def describe(name: str) -> MetricEntry:
    """The entry of a metric with its chart and label; an unlisted metric is a number.

    The chart and the label of a named evaluation set contain its name.
    """
    set_name, metric = evaluation_set(name)
    found = _listed(metric) or MetricEntry(metric, "")
    chart = found.chart or metric.split("/")[0].replace("_", " ").capitalize()
    label = found.label or _label(metric)
    if set_name:
        chart, label = f"{chart}, {set_name}", f"{set_name} {label}"
    return replace(found, chart=chart, label=label)


def evaluation_set(name: str) -> tuple[str, str]:
    """The evaluation set and its metric: ``("math", "accuracy")`` for ``math/accuracy``, or ``("", name)``."""
    head, _, metric = name.partition("/")
    if _listed(name) is None and metric and _listed(metric) is not None:
        return head, metric
    return "", name


def by_evaluation_set(metrics: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """The metrics of an evaluation by set, with names that do not contain the set."""
    sets: dict[str, dict[str, Value]] = {}
    for name, value in metrics.items():
        set_name, metric = evaluation_set(name)
        sets.setdefault(set_name, {})[metric] = value
    return sets


def with_prefix(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an evaluation as a tracker shows them next to those of training: ``evaluation/accuracy``."""
    return {name if name.startswith(PREFIX) else f"{PREFIX}{name}": value for name, value in metrics.items()}


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names in the order of the glossary, unlisted ones last, without standard errors."""
    patterns = [entry.pattern for entry in GLOSSARY]

    def rank(name: str) -> tuple[int, list[int], str]:
        metric = evaluation_set(name)[1]
        matches = (index for index, pattern in enumerate(patterns) if fnmatchcase(metric, pattern))
        numbers = [int(part) for part in metric.replace("@", " ").split() if part.isdigit()]
        return next(matches, len(patterns)), numbers, name

    return sorted((name for name in names if not name.endswith(STANDARD_ERROR)), key=rank)


def format_metric(name: str, metrics: Mapping[str, float | None]) -> str:
    """The value of one metric with its unit, and its standard error if it was logged: ``46.9% ± 3.5``."""
    unit, error = describe(name).unit, metrics.get(name + STANDARD_ERROR)
    text = format_value(metrics.get(name), unit)
    if error is None or not math.isfinite(error):
        return text
    return f"{text} ± {format_value(error, unit).rstrip('%')}"


def format_value(value: float | None, unit: Unit) -> str:
    """A number as people read it: three or four digits, fractions in percent, a dash for None."""
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
    """The signed difference, in percentage points for fractions; empty if it cannot be computed."""
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


def _listed(name: str) -> MetricEntry | None:
    bare = name.removesuffix(STANDARD_ERROR)
    return next((entry for entry in GLOSSARY if fnmatchcase(bare, entry.pattern)), None)


def _label(name: str) -> str:
    return name.replace("_", " ").replace("/", " ")
