"""Loads environments by reference, installed or registered ones, and validates their parameters."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skyrl_core.discovery import ALLOW_ALL, Claim, PluginPolicy, construct, load_class
from skyrl_core.errors import InvalidParamsError, ParamProblem, PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_core.lookup import path_fault
from skyrl_core.parameters import validate_params
from skyrl_core.value_text import show_value
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP, plugin_policy
from skyrl_train.config.schema import RunConfig
from skyrl_train.environments.environment import Environment, EnvironmentParams
from skyrl_train.environments.reward_function import is_function_reference, load_reward_function


def register_environment(name: str, cls: type[Environment]) -> None:
    """Register an environment in this process under a name, for scripts and notebooks.

    Args:
        name: lower-case letters, digits and _.
        cls: the class, defined at the top level of a module or of the script, because reward workers import it again.

    Raises:
        ValueError: the name is malformed, or another class is registered under it.
        TypeError: ``cls`` is not a subclass of Environment.
    """
    if not (isinstance(cls, type) and issubclass(cls, Environment)):
        raise TypeError(f"expected a subclass of Environment, got {cls!r}")
    ENVIRONMENT_GROUP.register(name, cls, source=cls)


def split_reference(reference: str, claims: Iterable[Claim]) -> tuple[str, str]:
    """The name to look up and the task: ``("reasoning_gym", "leg_counting")``, or ``("gsm8k", "")``.

    If two distributions claim a name, ``distribution:name`` and ``distribution:name:task`` select one.
    """
    head, _, rest = reference.partition(":")
    distributions, names = {claim.distribution for claim in claims}, {claim.name for claim in claims}
    if head not in distributions - names:
        return head, rest
    name, _, task = rest.partition(":")
    return f"{head}:{name}", task


def load_environment(
    reference: str, params: Mapping[str, Any] | None = None, policy: PluginPolicy = ALLOW_ALL
) -> Environment:
    """The environment of NAME, NAME:TASK, FILE.py:FUNCTION or MODULE:FUNCTION; ``params`` of None takes the defaults.

    Raises:
        InvalidParamsError: parameters are invalid; ``problems`` lists every problem.
        UnknownPluginError, PluginConflictError: as ``PluginGroup.find``, or it takes no task.
        PluginLoadError: it cannot be imported, is not an Environment, needs a package, or its constructor fails.
    """
    if fault := path_fault(reference):  # it may be a file
        raise UnknownPluginError(f"environment {show_value(reference)}: {fault}")
    function = reference if is_function_reference(reference) else _function_in_module(reference)
    if function is None:
        return _installed_environment(reference, params, policy)
    if params:
        problems = [
            ParamProblem(name, value, "a reward function takes no parameters") for name, value in params.items()
        ]
        raise InvalidParamsError(f"environment {reference}: invalid parameters", problems)
    return load_reward_function(function)


def _function_in_module(reference: str) -> str | None:
    """The reference of a function in a top-level module or in a file of the working folder; None for an environment."""
    place, _, name = reference.partition(":")
    if not (place.isidentifier() and name.isidentifier()):
        return None
    rows = ENVIRONMENT_GROUP.rows(ALLOW_ALL)
    if place in {row.name for row in rows} | {row.distribution for row in rows}:
        return None
    if Path(f"{place}.py").is_file():
        return f"{place}.py:{name}"
    return reference if importlib.util.find_spec(place) is not None else None


def _installed_environment(reference: str, params: Mapping[str, Any] | None, policy: PluginPolicy) -> Environment:
    rows = ENVIRONMENT_GROUP.rows(policy)
    plugin, task = split_reference(reference, rows)
    claim = ENVIRONMENT_GROUP.find(plugin, policy, rows=rows)
    environment = _environment_class(claim)
    checked = validate_params(environment.Params, _with_task(claim, environment, params or {}, task), str(claim))
    return construct(ENVIRONMENT_GROUP.guard(claim), environment, checked)


def load_environments(config: RunConfig, configured: Environment, named: Iterable[str] = ()) -> dict[str, Environment]:
    """The environments of a run by reference: the configured one, and those that rows name.

    ``environment.params`` apply to the configured one; the others have their default parameters.

    Raises:
        UnknownPluginError: an environment that rows name cannot be loaded, for any reason.
    """
    if config.environment.solved_at is not None:
        configured.solved_at = config.environment.solved_at
    environments = {config.environment.name: configured}
    for reference in sorted(set(named) - set(environments)):
        try:
            if is_function_reference(reference):
                raise UnknownPluginError("data may not name code to import: only environment.name may")
            environments[reference] = _installed_environment(reference, {}, plugin_policy(config))
        except SkyrlError as error:
            column = config.data.environment_column
            raise UnknownPluginError(
                f"rows name the environment {reference!r} in the column {column!r}, which cannot be used: {error}"
            ) from error
    return environments


def _environment_class(claim: Claim) -> type[Environment]:
    plugin = load_class(ENVIRONMENT_GROUP, claim, Environment)  # type: ignore[type-abstract]
    if not (isinstance(plugin.Params, type) and issubclass(plugin.Params, EnvironmentParams)):
        raise PluginLoadError(
            f"environment {claim}: {claim.attribute}.Params is {plugin.Params!r}, not a subclass of EnvironmentParams"
        )
    return plugin


def _with_task(claim: Claim, environment: type[Environment], params: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    takes_task = "task" in environment.Params.model_fields
    if task and not takes_task:
        raise UnknownPluginError(f"environment {claim} has no tasks: write {claim.name!r} without {':' + task!r}")
    if task and params.get("task", task) != task:
        problem = ParamProblem("task", params["task"], f"differs from the task {task!r} of the reference: remove it")
        raise InvalidParamsError(f"environment {claim}: invalid parameters", [problem])
    if takes_task and not task and "task" not in params:
        problem = ParamProblem("task", None, f"is required: write {claim.name}:TASK")
        raise InvalidParamsError(f"environment {claim}: invalid parameters", [problem])
    return {**params, "task": task} if task else params
