"""report.html: a self-contained page about a run, made from the files in the run folder."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from skyrl_train.tracking.answer_text import answer_text
from skyrl_train.tracking.atomic_file import RunFolderError, write_bytes
from skyrl_train.tracking.history import read_history
from skyrl_train.tracking.report_charts import draw_charts
from skyrl_train.tracking.report_result import describe_end, describe_failures, read_result
from skyrl_train.tracking.report_samples import read_samples
from skyrl_train.tracking.run_folder import RunFolder

SHOWN_CHARACTERS = 4000


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


def _render(folder: RunFolder) -> str:
    run, history = folder.read_run(), read_history(folder.metrics)
    status, result = _status(folder, run), read_result(run, history)
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("skyrl_train", "tracking"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["printable"] = lambda value: answer_text(str(value), SHOWN_CHARACTERS)
    pages.filters["first_line"] = lambda value: next(iter(str(value).splitlines()), "")[:200]
    return pages.get_template("report.html.j2").render(
        title=run.get("title") or folder.path.resolve().name,
        folder=folder.path.resolve(),
        status=status,
        end=describe_end(status, run, history),
        error=run.get("error") or "",
        resume_command=run.get("resume_command") or "",
        written=_minute(datetime.now().astimezone().isoformat()),
        result=result,
        loss=_loss(run.get("loss") or {}),
        model=run.get("model") or "",
        facts=_facts(run),
        answers=run.get("answers") or [],
        charts=draw_charts(history),
        samples=read_samples(folder.rollouts, has_accuracy=result.has_accuracy),
        provenance=_provenance(run),
        packages=run.get("packages") or {},
        config=folder.config_file.read_text(encoding="utf-8") if folder.config_file.exists() else "",
        unreadable_lines=history.unreadable_lines,
    )


def _status(folder: RunFolder, run: Mapping[str, Any]) -> str:
    outcome = str(run.get("outcome", "unknown"))
    # A killed process cannot record its end, but it no longer holds the lock.
    return "killed" if outcome == "running" and not folder.is_owned() else outcome


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    git = run.get("git") or {}
    facts = {
        "Started": _minute(run.get("started")),
        "Resumed": ", ".join(map(_minute, run.get("resumed", []))),
        "Ended": _minute(run.get("ended")),
        "Not evaluated": describe_failures(run),
        "Processes": run.get("world_size"),
        "Seeds": ", ".join(f"{name} {value}" for name, value in _flat(run.get("seeds", run.get("seed")))),
        "Git commit": f"{git['commit'][:12]}{' with changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else None,
        "Command": run.get("command"),
        "Folder": run.get("working_folder"),
        "Python": run.get("python"),
        "Platform": run.get("platform"),
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _loss(loss: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The loss and its components, each a heading with its parameters by their short names."""
    if not loss:
        return []
    parts = [(str(loss.get("name") or loss.get("id") or ""), _flat(loss.get("params") or {}, empty="none"))]
    for component in loss.get("components") or []:
        parts += _loss(component)
    return parts


def _provenance(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What identifies the code of the loss, and the changes that a resumed run accepted."""
    loss = {name: value for name, value in (run.get("loss") or {}).items() if name not in ("params", "components")}
    changes = [*(run.get("loss_changes") or []), *(run.get("accepted_changes") or [])]
    return [*_flat(loss), *_flat(run.get("origins") or {}), *_changes(changes)]


def _changes(changes: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [pair for change in changes for pair in _flat(change, "changed")]


def _flat(value: Any, prefix: str = "", *, empty: str = "") -> list[tuple[str, str]]:
    """Nested plain data as pairs of dotted name and text. Empty values become ``empty``, or are left out."""
    if isinstance(value, Mapping):
        return [
            pair
            for key, item in value.items()
            for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key), empty=empty)
        ]
    if value in (None, "", []):
        return [(prefix, empty)] if empty else []
    return [(prefix, str(value))]


def _minute(time: str | None) -> str:
    return time.replace("T", " ")[:16] if time else ""
