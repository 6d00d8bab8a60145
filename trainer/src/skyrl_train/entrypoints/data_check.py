"""Opens the data of a run and checks its rows for the dry run, in limited time."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from skyrl_core.discovery import exits_as_errors
from skyrl_core.errors import SkyrlError
from skyrl_train.config.problem import NO_VALUE, Problem
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.data.prompt_tokens import PromptEncoder, check_template_args
from skyrl_train.data.row_problem import FaultyRows, RowProblem
from skyrl_train.data.run_data import RowCheck, entries_of, wanted_sources
from skyrl_train.environments.load_environment import load_environments

SECONDS = 10.0
"""Time for the rows of one data option."""
PATIENCE = 20.0
"""Additional time for a source that has not responded, such as a hub."""


@dataclass
class _Progress:
    """The rows of one data option, filled by the thread that reads them."""

    count: int = 0
    complete: bool = False
    problems: list[RowProblem] = field(default_factory=list)
    error: SkyrlError | None = None


@exits_as_errors()
def with_checked_data(run: ResolvedRun) -> ResolvedRun:
    """The run with the problems of its data in ``missing``, and with a line about each data option in ``data``.

    Without data files it returns at once; with data files it loads the tokenizer, which imports torch.
    """
    lacking = {problem.key for problem in run.missing}
    sources = {key: names for key, names in wanted_sources(run.config, trains=True).items() if names}
    sources = {key: names for key, names in sources.items() if key not in lacking}
    if not sources:
        return run
    tokenizer, problems = _tokenizer(run)
    lines: list[str] = []
    for key, names in sources.items():
        progress = _check(run, key, names, tokenizer)
        faulty = FaultyRows(key=key, count=progress.count, problems=progress.problems)
        problems += _problems(key, names, progress, faulty.without(run.config.data.drop))
        if progress.count:
            lines.append(_line(key, progress, tokenized=tokenizer is not None))
        dropped = faulty.having(run.config.data.drop)
        lines += [dropped.note()] if dropped.problems else []
    return replace(run, missing=(*run.missing, *problems), data=tuple(lines))


def _tokenizer(run: ResolvedRun) -> tuple[Any, list[Problem]]:
    from skyrl_train.machine.library_output import quiet
    from skyrl_train.policy.model_loading import load_tokenizer

    quiet()
    model, template_args = run.config.model, run.config.data.chat_template_args
    try:
        tokenizer = load_tokenizer(model, run.config.model_options)
    except SkyrlError as error:
        return None, [Problem(key="model", value=model, rule=str(error), origin="data check", error=SkyrlError)]
    try:
        check_template_args(tokenizer, template_args)
    except SkyrlError as error:
        key = "data.chat_template_args"
        return None, [Problem(key=key, value=template_args, rule=str(error), origin="data check", error=SkyrlError)]
    try:
        for evaluation in (False, True):
            PromptEncoder.of(run.config, tokenizer, evaluation=evaluation)
    except SkyrlError as error:
        return None, [Problem(key="model", value=model, rule=str(error), origin="data check", error=SkyrlError)]
    return tokenizer, []


def _check(run: ResolvedRun, key: str, sources: Sequence[str], tokenizer: Any) -> _Progress:
    """Check rows until all are checked or the time is over. A hub that never responds is left behind in its thread."""
    progress = _Progress()
    thread = threading.Thread(target=_read, args=(run, key, sources, tokenizer, progress), daemon=True)
    thread.start()
    thread.join(SECONDS + PATIENCE)
    if thread.is_alive() and not progress.count:
        progress.error = SkyrlError(f"{', '.join(sources)} did not respond within {SECONDS + PATIENCE:.0f} s")
    return progress


def _read(run: ResolvedRun, key: str, sources: Sequence[str], tokenizer: Any, progress: _Progress) -> None:
    config, checks = run.config, dict[str, RowCheck]()
    try:
        deadline: float | None = None
        for entry in entries_of(config, key, sources, streaming=True):
            deadline = time.monotonic() + SECONDS if deadline is None else deadline
            problem = entry if isinstance(entry, RowProblem) else None
            if not isinstance(entry, RowProblem):
                if entry.environment not in checks:
                    named = load_environments(config, run.environment, [entry.environment])
                    checks[entry.environment] = RowCheck(config, named, tokenizer, [key])
                problem = checks[entry.environment].problem(entry, key)
            progress.count += 1
            if problem is not None:
                progress.problems.append(problem)
            if time.monotonic() > deadline:
                return
        progress.complete = True
    except SkyrlError as error:
        progress.error = error


def _problems(key: str, sources: Sequence[str], progress: _Progress, faulty: FaultyRows) -> list[Problem]:
    rules = faulty.lines()
    if progress.error is not None:
        rules = [*rules, " ".join(str(progress.error).split())]
    elif progress.complete and progress.count == len(progress.problems) and not rules:
        rules = ["data.drop leaves no rows"]
    value = NO_VALUE if faulty.problems else list(sources) if len(sources) > 1 else sources[0]
    return [Problem(key=key, value=value, rule=rule, origin="data check", error=SkyrlError) for rule in rules]


def _line(key: str, progress: _Progress, *, tokenized: bool) -> str:
    rows = f"{progress.count:,} row{'' if progress.count == 1 else 's'}"
    looked_at = f"all {rows}" if progress.complete else f"the first {rows}"
    return f"{key}: {looked_at} checked{'' if tokenized else ', without the tokenizer'}"
