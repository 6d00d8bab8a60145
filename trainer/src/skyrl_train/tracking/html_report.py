"""report.html: a self-contained page about a run, made from the files in the run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from skyrl_train.tracking.answer_text import answer_text
from skyrl_train.tracking.atomic_file import RunFolderError, write_bytes
from skyrl_train.tracking.chart import Series, line_chart
from skyrl_train.tracking.history import History, Metrics, read_history
from skyrl_train.tracking.metric_glossary import (
    describe,
    evaluation_set,
    format_change,
    format_duration,
    format_metric,
    format_value,
    in_order,
)
from skyrl_train.tracking.rollout_files import read_records, saved_steps
from skyrl_train.tracking.run_folder import RunFolder

SHOWN_SAMPLES = 12
SHOWN_CHARACTERS = 4000
CURVES_IN_A_CHART = 6


@dataclass(frozen=True)
class LegendEntry:
    """One curve of a chart: metric name, label, last value with unit, meaning."""

    name: str
    label: str
    last: str
    meaning: str


@dataclass(frozen=True)
class Chart:
    """One figure of the report."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into the run folder and return its path. The run may be finished, running or killed.

    Raises:
        RunFolderError: the folder contains no run or cannot be written.
    """
    folder = RunFolder(run_folder)
    if not folder.run_file.exists() and not folder.metrics.exists():
        raise RunFolderError(
            f"there is no run in {run_folder}: it has neither {folder.run_file.name} nor {folder.metrics.name}. "
            "Give the run folder that `skyrl train` printed."
        )
    write_bytes(folder.report, _render(folder).encode("utf-8", errors="backslashreplace"))
    return folder.report


def draw_charts(history: History) -> list[Chart]:
    """One chart per group of metrics, in the order of the glossary. Metrics without values are left out."""
    trained, held_out = _names(history.train), _names(history.evaluations)
    groups: dict[str, list[tuple[str, Series]]] = {}
    for name in in_order(trained | held_out):
        label, group = describe(name).label, groups.setdefault(describe(name).chart, [])
        if name in trained:
            group.append((name, Series(label, _points(history.train, name))))
        if name in held_out:
            label = f"{label}, held-out" if name in trained else label
            group.append((name, Series(label, _points(history.evaluations, name), sparse=True)))
    return [
        _draw(title, curves[start : start + CURVES_IN_A_CHART], history.last_step)
        for title, curves in groups.items()
        for start in range(0, len(curves), CURVES_IN_A_CHART)
    ]


def _names(source: Mapping[int, Metrics]) -> set[str]:
    return {name for metrics in source.values() for name, value in metrics.items() if value is not None}


def _points(source: Mapping[int, Metrics], name: str) -> list[tuple[int, float | None]]:
    return [(step, source[step].get(name)) for step in sorted(source)]


def _draw(title: str, curves: Sequence[tuple[str, Series]], last_step: int) -> Chart:
    unit = describe(curves[0][0]).unit
    legend = tuple(
        LegendEntry(name, series.label, format_value(series.last, unit), describe(name).meaning)
        for name, series in curves
    )
    return Chart(title, line_chart([series for _, series in curves], unit, last_step), legend)


def _render(folder: RunFolder) -> str:
    run, history = folder.read_run(), read_history(folder.metrics)
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("skyrl_train", "tracking"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["printable"] = lambda value: answer_text(str(value), SHOWN_CHARACTERS)
    sample_step, samples = _last_samples(folder.rollouts)
    return pages.get_template("report.html.j2").render(
        title=run.get("title") or folder.path.resolve().name,
        folder=folder.path.resolve(),
        status=_status(folder, run),
        written=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        facts=_facts(run, history),
        loss=_flat(run.get("loss")),
        comparison=_comparison(run, history),
        answers=run.get("answers") or [],
        charts=draw_charts(history),
        samples=samples,
        sample_step=sample_step,
        packages=run.get("packages") or {},
        config=folder.config_file.read_text(encoding="utf-8") if folder.config_file.exists() else "",
        unreadable_lines=history.unreadable_lines,
    )


def _status(folder: RunFolder, run: Mapping[str, Any]) -> str:
    outcome = str(run.get("outcome", "unknown"))
    # A killed process cannot record its end, but it no longer holds the lock.
    return "killed" if outcome == "running" and not folder.is_owned() else outcome


def _facts(run: Mapping[str, Any], history: History) -> list[tuple[str, str]]:
    git = run.get("git") or {}
    seconds = run.get("training_seconds")
    facts = {
        "Steps": f"{history.last_step} of {run['total_steps']}" if run.get("total_steps") else str(history.last_step),
        "Training time": format_duration(seconds) if seconds is not None else None,
        "Started": run.get("started"),
        "Resumed": ", ".join(run.get("resumed", [])),
        "Ended": run.get("ended"),
        "Model": run.get("model"),
        "Processes": run.get("world_size"),
        "Seeds": ", ".join(f"{name} {value}" for name, value in _flat(run.get("seeds", run.get("seed")))),
        "Git commit": f"{git['commit'][:12]}{' with changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else None,
        "Command": run.get("command"),
        "Python": run.get("python"),
        "Platform": run.get("platform"),
        "To resume": run.get("resume_command"),
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as pairs of dotted name and text."""
    if value is None or value == {}:
        return []
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, str(value))]


def _comparison(run: Mapping[str, Any], history: History) -> dict[str, Any] | None:
    """Rows of (label, before, after, change), from run.json if the run has ended, else from the evaluations so far."""
    latest_step, latest = history.after or (0, {})
    before: Metrics = run.get("before") or history.before or {}
    after: Metrics = run.get("after") or latest
    if not before and not after:
        return None
    return {"rows": comparison_rows(before, after), "step": run.get("last_step") if run.get("after") else latest_step}


def comparison_rows(before: Metrics, after: Metrics) -> list[tuple[str, str, str, str]]:
    """A row of label, before, after and change for each metric of two evaluations."""
    return [
        (
            describe(name).label,
            format_metric(name, before),
            format_metric(name, after),
            format_change(name, before.get(name), after.get(name)),
        )
        for name in sorted(in_order({**before, **after}), key=lambda name: evaluation_set(name)[0])
    ]


def _last_samples(folder: Path) -> tuple[int, Sequence[Mapping[str, Any]]]:
    steps = saved_steps(folder)
    return (steps[-1], read_records(folder, steps[-1])[:SHOWN_SAMPLES]) if steps else (0, [])
