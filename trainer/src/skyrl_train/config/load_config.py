"""Resolves files and a command line to a validated run; reports all problems at once, without torch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skyrl_core.discovery import exits_as_errors
from skyrl_core.errors import SkyrlError
from skyrl_core.lookup import checked_path, path_fault
from skyrl_core.redaction import REDACTED, remember_secrets
from skyrl_train.config.inert_options import find_inert
from skyrl_train.config.machine_check import find_missing
from skyrl_train.config.option_conflicts import Violation, check_rules, find_oddities
from skyrl_train.config.plugin_check import EnvironmentLoader, PluginCheck
from skyrl_train.config.presets import source_name
from skyrl_train.config.problem import Problem, raise_problems
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.run_folder_code import find_run_folder_code
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import COMMAND_LINE, DEFAULTS, KEYWORDS, Sources, read_sources
from skyrl_train.config.validation import Fault, validate
from skyrl_train.config.yaml_text import Keys, inline_yaml

NO_REMOTE_CODE = "model_options.trust_remote_code=false"
"""An override for a configuration that was found in a run folder, perhaps a stranger's: only the user can permit the
code of a model."""
LOSS_KEY = ("trainer", "algorithm", "policy_loss_type")


@exits_as_errors()
def resolve_run(  # noqa: PLR0913 - one for each part of a command line or of a call
    load_environment: EnvironmentLoader,
    *,
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    loss: str | None = None,
    resume: str | None = None,
    accept_loss_change: bool = False,
    accept_changes: bool = False,
    skip_damaged: bool = False,
) -> ResolvedRun:
    """Read, merge and validate the configuration of a run.

    Args:
        load_environment: the function of that name in skyrl_train.environments.
        files: YAML files or names of presets; later ones override earlier ones. Without any: on resume the file of
            that run, else the defaults, which are the quickstart's if no override names a model.
        overrides: `a.b=value`; they override the files.
        settings: options as Python values, by the origin that messages name; they override the files.
        loss: the same as an override of trainer.algorithm.policy_loss_type.
        resume: a run folder or a checkpoint in one; empty takes `run_folder` of the configuration.
        accept_loss_change, accept_changes, skip_damaged: as the options of the command line.

    Raises:
        SkyrlError: a file cannot be read, or the run to resume does not exist.
        UnknownPluginError: every problem is an unknown name.
        PluginConflictError: every problem is a name that two distributions claim, or that the plugin policy denies.
        InvalidParamsError: any other problem; the message lists every problem.
    """
    found = _found_file(files, resume)
    sources = _read([*files, *found], [NO_REMOTE_CODE, *overrides] if found else overrides, settings)
    files = found or files
    _apply_loss(sources, loss, COMMAND_LINE if settings is None else KEYWORDS)
    _check_resume(sources, resume)
    config, faults = validate(sources.values)
    problems = [*_unusable_values(sources), *_faulty_values(sources, faults)]
    faulty = frozenset(problem.key for problem in problems)
    problems += _broken_rules(config, sources, faulty)
    plugins = PluginCheck(config, sources, faulty, load_environment)
    raise_problems(problems + plugins.problems, "invalid configuration")
    return ResolvedRun(
        config=config,
        loss=plugins.loss,
        estimator=plugins.estimator,
        environment=plugins.environment,
        engine=plugins.engine,
        trackers=tuple(plugins.trackers),
        observers=tuple(plugins.observers),
        quickstart=sources.quickstart,
        files=tuple(map(source_name, files)),
        overrides=(*([f"--loss {loss}"] if loss else []), *overrides),
        python_call=settings is not None,
        resume=None if resume is None else _resume_path(resume, config),
        accept_loss_change=accept_loss_change or accept_changes,
        accept_changes=accept_changes,
        skip_damaged=skip_damaged,
        missing=tuple(find_missing(config, sources, generates_problems=plugins.generates_problems)),
        notes=(*plugins.notes, *find_inert(config, sources), *find_oddities(config)),
    )


def _unusable_values(sources: Sources) -> list[Problem]:
    return [*sources.problems, *_redacted_values(sources, sources.values), *find_run_folder_code(sources)]


def _found_file(files: Sequence[Path], resume: str | None) -> list[Path]:
    """The configuration file of the run to resume, unless files are given."""
    for path in [*files, *([Path(resume)] if resume else [])]:
        checked_path(path)
    return [_config_of_run(Path(resume))] if resume and not files else []


def _read(files: Sequence[Path], overrides: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None) -> Sources:
    """All sources, on top of the quickstart settings if neither a file nor a model is given."""
    sources = read_sources(files, overrides, settings=settings)
    if not files and "model" not in sources.values:
        # The defaults of the schema suit a real model; the tiny model learns nothing with them.
        sources = read_sources(files, overrides, settings=settings, quickstart=True)
    remember_secrets(sources.values)  # before anything can print them
    return sources


def _apply_loss(sources: Sources, loss: str | None, place: str) -> None:
    if loss is None:
        return
    key = ".".join(LOSS_KEY)
    given = sources.value(LOSS_KEY)
    if sources.origin(LOSS_KEY) == place and given != loss:
        option = f"--loss {loss}" if place == COMMAND_LINE else f"loss={loss!r}"
        rule = f"contradicts {option}; give only one"
        sources.problems.append(Problem(key=key, value=given, rule=rule, origin=place, error=SkyrlError))
    sources.set(LOSS_KEY, loss, place)


def _check_resume(sources: Sources, resume: str | None) -> None:
    key = ("run_folder",)
    given = sources.value(key)
    if not resume or sources.origin(key) != COMMAND_LINE:
        return
    resumed = run_folder_of(Path(resume)) or Path(resume)
    is_path = isinstance(given, str) and path_fault(given) is None  # otherwise validation reports it
    if not is_path or Path(given).expanduser().resolve() == resumed.resolve():
        return
    rule = f"contradicts --resume {resume}: a run is resumed in its folder; to continue in another, copy the folder"
    sources.problems.append(Problem(key="run_folder", value=given, rule=rule, origin=COMMAND_LINE, error=SkyrlError))


def _faulty_values(sources: Sources, faults: Sequence[Fault]) -> list[Problem]:
    return [Problem(key=".".join(f.keys), value=f.value, rule=f.rule, origin=sources.origin(f.keys)) for f in faults]


def _redacted_values(sources: Sources, values: Any, keys: Keys = ()) -> Iterator[Problem]:
    """A problem for each value that was redacted in the file of an earlier run."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _redacted_values(sources, value, (*keys, key))
        elif _is_redacted(value):
            yield Problem(
                key=".".join((*keys, key)),
                value=value,
                rule="this secret was removed when the run was recorded; give it again in a separate file, with "
                "--config FILE after the other one, or let the plugin read it from an environment variable",
                origin=sources.origin((*keys, key)),
            )


def _is_redacted(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_is_redacted, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and REDACTED in value


def _broken_rules(config: RunConfig, sources: Sources, faulty: frozenset[str]) -> list[Problem]:
    """Conflicts between options, without those that involve a faulty value."""
    problems = []
    for violation in check_rules(config):
        if any(key.startswith(bad) for key in violation.keys for bad in faulty):
            continue
        problems.append(_conflict(violation, sources))
    return problems


def _conflict(violation: Violation, sources: Sources) -> Problem:
    """The problem at the first option that was given: a default conflicts only because of what was given."""
    first, value, rule = violation.keys[0], violation.value, violation.rule
    origins = {key: sources.origin(tuple(key.split("."))) for key in violation.keys}
    given = next((key for key in violation.keys if origins[key] not in DEFAULTS), first)
    if given != first:
        rule = f"{first} = {inline_yaml(value)} ({origins[first]}) {rule}"
        value = sources.value(tuple(given.split(".")))
    return Problem(key=given, value=value, rule=rule, origin=origins[given])


def run_folder_of(path: Path) -> Path | None:
    """The run folder, given itself or a checkpoint in it; None for any other path, such as a model folder."""
    if (path / "checkpoints").is_dir():
        return path
    return path.parent.parent if (path / "manifest.json").is_file() else None


def _config_of_run(folder: Path) -> Path:
    """The configuration file of a run, given the run folder or a checkpoint in it."""
    candidates = [place / "config.yaml" for place in (folder, folder.parent.parent)]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise SkyrlError(f"nothing to resume: {folder} is neither a run folder nor a checkpoint in one")
    return found


def _resume_path(resume: str, config: RunConfig) -> Path:
    if not resume and config.run_folder is None:
        raise SkyrlError("--resume does not name a run: give its folder, or set run_folder")
    path = Path(resume or str(config.run_folder))
    if not path.is_dir():
        raise SkyrlError(f"nothing to resume: the folder {path} does not exist; give the folder of a run")
    return path
