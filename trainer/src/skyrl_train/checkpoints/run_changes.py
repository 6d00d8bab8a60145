"""Compares a run with the one that a checkpoint belongs to: refuses what changes its course, and notes the rest."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_core.value_text import show_value
from skyrl_train.config.course_options import default_of, effect_of
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.record.progress import Fingerprint, Progress

MISSING = object()
UNKNOWN = (
    "this checkpoint was written by an earlier version, which did not record data and options: check that they are "
    "those of its run"
)


@dataclass(frozen=True)
class RunChanges:
    """The differences, each as a line ``name: old -> new``; those that are noted are complete messages."""

    course: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()


def changed_options(before: Fingerprint | None, now: Fingerprint) -> RunChanges:
    """The changes of options and packages."""
    if before is None:
        return RunChanges(noted=(UNKNOWN,))
    lines = {key: line for key in sorted(before.options.keys() | now.options) if (line := _option(key, before, now))}
    return RunChanges(
        course=tuple(line for key, line in lines.items() if effect_of(key) == "course"),
        noted=_notes(
            *(line for key, line in lines.items() if effect_of(key) == "noted"),
            *_pairs(before.packages, now.packages, "package "),
        ),
    )


def changed_data(before: Fingerprint | None, now: Fingerprint) -> RunChanges:
    """The changes of training rows, code and base model; those of held-out rows are noted."""
    if before is None:
        return RunChanges()
    lines = {key: line for key in sorted(before.data.keys() | now.data) if (line := _data(key, before, now))}
    return RunChanges(
        course=(
            *(line for key, line in lines.items() if key == "data.train"),
            *_pairs(_short(before.content), _short(now.content), "content of "),
        ),
        noted=_notes(*(line for key, line in lines.items() if key != "data.train")),
    )


def accept(progress: Progress, changes: RunChanges, run: ResolvedRun, checkpoint: Path) -> Progress:
    """The progress with the accepted changes of its course.

    Raises:
        SkyrlError: there are changes, and the user did not accept them.
    """
    if not changes.course:
        return progress
    if not run.accept_changes:
        accept_option = "accept_changes=True" if run.python_call else "--accept-changes"
        lines = "".join(f"\n  {line}" for line in changes.course)
        raise SkyrlError(
            f"this run would not continue as {checkpoint} began:{lines}\n  restore them, or add {accept_option} to "
            "resume anyway"
        )
    *earlier, last = progress.accepted_changes or ({},)
    if last.get("step") != progress.step:
        earlier, last = list(progress.accepted_changes), {"step": progress.step, "changes": []}
    lines_now = dict.fromkeys([*last["changes"], *changes.course])
    return replace(progress, accepted_changes=(*earlier, {"step": progress.step, "changes": list(lines_now)}))


def _notes(*lines: str) -> tuple[str, ...]:
    return tuple(f"changed since the checkpoint: {line}" for line in lines)


def _option(key: str, before: Fingerprint, now: Fingerprint) -> str | None:
    old, new = before.options.get(key, MISSING), now.options.get(key, MISSING)
    if old == new or (old is MISSING and new == default_of(key)):  # an option that did not exist then
        return None
    return f"{key}: {_shown(old)} -> {_shown(new)}"


def _pairs(before: dict[str, str], now: dict[str, str], prefix: str) -> list[str]:
    names = sorted(before.keys() | now)
    return [
        f"{prefix}{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _data(key: str, before: Fingerprint, now: Fingerprint) -> str | None:
    old, new = before.data.get(key), now.data.get(key)
    if old == new:
        return None
    if old is None or new is None:
        return f"{key}: {'absent' if old is None else 'present'} -> {'absent' if new is None else 'present'}"
    if old.get("rows") != new.get("rows"):
        return f"{key}: {_count(old)} -> {_count(new)}"
    if old.get("sha256") != new.get("sha256"):
        return f"{key}: the content or order of the {_count(new)} changed"
    return f"{key}: the same rows give other tokens, because the tokenizer or its chat template changed"


def _count(data: dict[str, Any]) -> str:
    return "generated rows" if data.get("rows") is None else f"{data['rows']} rows"


def _short(hashes: dict[str, str]) -> dict[str, str]:
    return {name: value[:12] for name, value in hashes.items()}


def _shown(value: Any) -> str:
    return "absent" if value is MISSING else show_value(value)
