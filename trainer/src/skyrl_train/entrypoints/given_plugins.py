"""Losses and environments that Python code passes to `train` as objects, as the names that a configuration uses."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from skyrl_core.discovery import PluginGroup, PluginPolicy
from skyrl_core.errors import InvalidParamsError, PluginConflictError, SkyrlError
from skyrl_core.parameters import as_json_values
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP, EnvironmentLoader
from skyrl_train.environments.environment import Environment
from skyrl_train.environments.load_environment import load_environment, register_environment
from skyrl_train.environments.reward_function import RewardFunction, environment_of_function

Settings = dict[str, Any]


def name_of_loss(loss: object) -> tuple[str, Settings]:
    """The name of a loss, which is registered if it has none yet, and the options of an instance.

    ``loss`` is a name, a class, an instance or a function.

    Raises:
        PluginConflictError: another loss is registered under its name.
        InvalidParamsError: it is an instance whose parameters are unknown.
        SkyrlError: it is none of these.
    """
    if isinstance(loss, str):
        return loss, {}
    from skyrl_core import PolicyLoss, register_policy_loss
    from skyrl_core.registry import LOSSES

    if isinstance(loss, PolicyLoss):
        name, _ = name_of_loss(type(loss))
        block = name.rpartition(":")[2]
        params = _params_of(loss, PolicyLoss, f"trainer.algorithm.{block}")
        return name, {"trainer": {"algorithm": {block: params}}} if params else {}
    is_class = isinstance(loss, type) and issubclass(loss, PolicyLoss)
    if not is_class and (isinstance(loss, type) or not callable(loss)):
        raise SkyrlError(f"loss = {loss!r}: pass a name, a subclass of PolicyLoss, an instance of one, or a function")
    own = getattr(loss, "name", "") if is_class else ""
    return _registered(LOSSES, loss, own or _snake_case(loss, "loss"), register_policy_loss), {}


def settings_of_environment(environment: object) -> Settings:
    """The section ``environment`` for a name, a section, a class or an instance.

    Raises:
        PluginConflictError: another environment is registered under its name.
        InvalidParamsError: it is an instance whose parameters are unknown.
        SkyrlError: it is none of these.
    """
    if environment is None:
        return {}
    if isinstance(environment, str):
        return {"name": environment}
    if isinstance(environment, Mapping):
        return dict(environment)
    if isinstance(environment, RewardFunction):
        return {"name": environment.reference}
    if isinstance(environment, Environment):
        params = _params_of(environment, Environment, "environment.params")
        return settings_of_environment(type(environment)) | ({"params": params} if params else {})
    if isinstance(environment, type) and issubclass(environment, Environment):
        name = _snake_case(environment, "environment")
        return {"name": _registered(ENVIRONMENT_GROUP, environment, name, register_environment)}
    raise SkyrlError(
        f"environment = {environment!r}: pass a name, a section such as {{'name': 'gsm8k'}}, a subclass of "
        "Environment, an instance of one, or a reward function"
    )


def with_function(environment: Any) -> object:
    """The environment of a reward function; anything else as it is."""
    is_function = callable(environment) and not isinstance(environment, type | Environment)
    return environment_of_function(environment) if is_function else environment


def loader_of_environment(environment: object) -> EnvironmentLoader:
    """What loads the environment of a run: itself for a reward function, which no reference can name."""
    if not isinstance(environment, RewardFunction):
        return load_environment

    def load(reference: str, params: Mapping[str, Any], policy: PluginPolicy) -> Environment:
        return environment if reference == environment.reference else load_environment(reference, params, policy)

    return load


def _registered(group: PluginGroup, plugin: Any, name: str, register: Any) -> str:
    """The name under which the plugin is installed or registered; it is registered again, as its cell may have run."""
    known = group.name_of(plugin)
    if known is not None:
        return known
    try:
        register(name, plugin)
    except ValueError as error:
        raise PluginConflictError(str(error)) from error
    return group.name_of(plugin) or name


def _params_of(instance: Any, base: type[Any], key: str) -> Settings:
    if "params" not in vars(instance):
        if type(instance).__init__ is base.__init__:
            return {}
        raise InvalidParamsError(
            f"{instance!r} does not keep its parameters in `params`, so the run cannot record them: pass the class, "
            f"and its parameters as {key}"
        )
    params = instance.params
    return as_json_values(params) if isinstance(params, BaseModel) else {}


def _snake_case(plugin: object, fallback: str) -> str:
    """A plugin name from the name of a class or function; a lambda has none."""
    name = str(getattr(plugin, "__name__", ""))
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return words.strip("_") if re.fullmatch(r"_*[a-z][a-z0-9_]*", words) else fallback
