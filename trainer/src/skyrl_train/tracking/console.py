"""The screen: progress during training, and a comparison of before and after at the end."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from skyrl_core.discovery import printable, safe_to_print
from skyrl_train.tracking.answer_text import answer_text
from skyrl_train.tracking.metric_glossary import (
    by_evaluation_set,
    describe,
    format_change,
    format_duration,
    format_metric,
    in_order,
)
from skyrl_train.tracking.pace import Pace
from skyrl_train.tracking.screen import Screen
from skyrl_train.tracking.tracker import AnswerPair, RunInfo, RunSummary

STEP_METRICS = ("reward/mean", "loss/total", "tokens_per_second")
PLAIN_LINES = 1000
SHOWN_ANSWERS = 3
ANSWER_CHARACTERS = 400


class Console:
    """Progress bar, evaluations and final comparison on a terminal; plain lines on any other stream.

    A plain stream gets one line per step, or about a thousand lines for a longer run.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._screen = (Screen.current if file is None else None) or Screen(file)
        Screen.current = None if Screen.current is self._screen else Screen.current
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=22),
            TextColumn("{task.fields[elapsed]}", style="progress.elapsed"),
            TextColumn("{task.fields[remaining]}"),
            console=self._screen.terminal,
        )
        self._pace = Pace(0, 0)
        self._metrics: dict[str, float] = {}
        self._total = 0
        self._seconds: float | None = None  # of the finished run, as the last line and run.json have it

    def start(self, info: RunInfo) -> None:
        evaluation = info.config.get("evaluation", {})
        self._total, self._pace = (
            info.total_steps,
            Pace(
                info.start_step,
                info.total_steps,
                evaluates=bool(evaluation.get("prompts", 0)),
                evaluate_every=evaluation.get("every", 0),
            ),
        )
        self._print(Text(printable(info.title, escape=True, lines=True), style="bold"))
        ranks = "1 process" if info.world_size == 1 else f"{info.world_size} processes"
        resumed = f", resumed after step {info.start_step}" if info.start_step else ""
        steps = "1 step" if info.total_steps == 1 else f"{info.total_steps:,} steps"
        self._print(f"loss {info.loss} · {steps} on {ranks}{resumed}")
        self._print(f"run folder {info.run_folder}")
        self._bar.add_task("train", total=info.total_steps, completed=info.start_step, elapsed="", remaining="")
        self._screen.status = "loading the model ..."
        self._screen.show(self._progress)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._metrics = dict(metrics)
        self._pace.reached(step)
        if self._screen.live:
            for task in self._bar.task_ids:
                self._bar.update(task, completed=step)
            self._screen.refresh()
        elif step == self._total or step % math.ceil(self._total / PLAIN_LINES) == 0:
            times = (f"{format_duration(self._pace.elapsed())} elapsed", self._pace.remaining())
            self._print("  ".join([f"step {step}/{self._total}", *_pairs(metrics), *(time for time in times if time)]))

    def log_evaluation(self, step: int, metrics: Mapping[str, float], final: bool) -> None:
        self._pace.evaluated(step)
        when = "after training" if final else f"after step {step}" if step else "before training"
        for set_name, part in (by_evaluation_set(metrics) or {"": {}}).items():
            self._print_evaluation(f"evaluation {set_name} {when}" if set_name else f"evaluation {when}", part)

    def _print_evaluation(self, title: str, metrics: Mapping[str, float]) -> None:
        values = [f"{describe(name).label} {format_metric(name, metrics)}" for name in in_order(metrics)]
        items = [f"{title}: {values[0]}" if values else title, *values[1:]]
        self._print("\n".join(_folded(items, self._width)) if self._screen.live else "  ".join(items), style="cyan")

    def message(self, text: str) -> None:
        self._pace.ready()
        self._screen.status = "evaluating, or in the first step ..."
        self._screen.refresh()
        self._print(text)

    def finish(self, summary: RunSummary) -> None:
        """Stop the bar and show what training changed."""
        self._seconds = summary.seconds
        self._screen.close()
        for part in _closing(summary):
            self._screen.print(part, soft_wrap=isinstance(part, Text))

    def close(self) -> None:
        """Restore the terminal and its cursor."""
        self._screen.close()

    @property
    def _width(self) -> int:
        return self._screen.terminal.width

    def _print(self, text: str | Text, style: str = "") -> None:
        # Text, not str, because rich parses [brackets] in a str as markup. Plain lines are not wrapped, so grep works.
        self._screen.print(
            Text(safe_to_print(text)) if isinstance(text, str) else text,
            style,
            soft_wrap=not self._screen.terminal.live,
        )

    def _progress(self) -> RenderableType:
        for task in self._bar.task_ids:
            seconds = self._pace.elapsed() if self._seconds is None else self._seconds
            elapsed, remaining = format_duration(seconds), self._pace.remaining()
            self._bar.update(task, elapsed=elapsed, remaining=remaining)
        details = _folded(_pairs(self._metrics), self._width) or [self._screen.status]
        return Group(self._bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in details))


def _pairs(metrics: Mapping[str, float]) -> list[str]:
    return [f"{describe(name).label} {format_metric(name, metrics)}" for name in STEP_METRICS if name in metrics]


def _folded(items: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 3 + len(item) <= width:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return lines


def _closing(summary: RunSummary) -> list[RenderableType]:
    parts: list[RenderableType] = [Text()]
    if summary.before or summary.after:
        before, after = by_evaluation_set(summary.before or {}), by_evaluation_set(summary.after or {})
        for name in {**before, **after}:
            parts += [_comparison(name, before.get(name, {}), after.get(name, {})), Text()]
    for number, answer in enumerate(summary.answers[:SHOWN_ANSWERS], start=1):
        parts += [_answer_table(number, answer), Text()]
    headline = {
        "finished": ("Finished", "bold green"),
        "interrupted": ("Interrupted", "bold yellow"),
        "failed": ("Failed", "bold red"),
    }[summary.outcome]
    parts.append(Text.assemble(headline, f" after step {summary.steps}, {format_duration(summary.seconds)}"))
    report: Path = summary.run_folder / "report.html"
    facts = {
        "Run folder": summary.run_folder,
        "Report": report if report.exists() else None,
        "Checkpoint": summary.checkpoint,
        "To resume": summary.resume_command,
    }
    return parts + [Text(safe_to_print(f"{name + ':':<12}{value}")) for name, value in facts.items() if value]


def _comparison(set_name: str, before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    title = f"Held-out problems, {set_name}" if set_name else "Held-out problems"
    table = Table(title, box=None, pad_edge=False, header_style="bold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    for name in in_order({**before, **after}):
        change = format_change(name, before.get(name), after.get(name))
        table.add_row(describe(name).label, format_metric(name, before), format_metric(name, after), change)
    return table


def _answer_table(number: int, answer: AnswerPair) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(f"Question {number}", _shown(answer.question))
    table.add_row("Expected", _shown(answer.expected))
    if answer.before is not None:
        table.add_row(*_marked("Before", answer.before, answer.before_correct, answer.before_reward))
    table.add_row(*_marked("After", answer.after, answer.after_correct, answer.after_reward))
    return table


def _marked(when: str, text: str, correct: bool | None, reward: float | None) -> tuple[Text, Text]:
    if correct is None:
        mark = ("no verdict" if reward is None else f"reward {reward:.3g}", "bold")
    else:
        mark = ("right", "green") if correct else ("wrong", "red")
    return Text.assemble(f"{when}, ", mark), _shown(text)


def _shown(text: str) -> Text:
    return Text(answer_text(text.strip(), ANSWER_CHARACTERS) or "(empty)")
