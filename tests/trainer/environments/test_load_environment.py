from typing import ClassVar

import pytest
from pydantic import Field

from skyrl_core.discovery.plugin_group import PluginPolicy
from skyrl_core.errors import InvalidParamsError, PluginConflictError, PluginLoadError, UnknownPluginError
from skyrl_train.config.plugin_check import ENVIRONMENT_GROUP
from skyrl_train.config.schema import RunConfig
from skyrl_train.environments.arithmetic import Arithmetic
from skyrl_train.environments.environment import Environment, EnvironmentParams
from skyrl_train.environments.load_environment import (
    load_environment,
    load_environments,
    register_environment,
    split_reference,
)


class TaskParams(EnvironmentParams):
    task: str = Field(min_length=1)
    level: int = Field(default=1, ge=1, le=3)


class Tasks(Environment):
    name = "tasks"
    Params: ClassVar = TaskParams

    def reward(self, completion, row):
        return 0.0


class Fragile(Environment):
    name = "fragile"

    def __init__(self, params):
        raise OSError("no such file: answers.db")

    def reward(self, completion, row):
        return 0.0


class OddParams(Tasks):
    Params: ClassVar = dict


@pytest.fixture(autouse=True)
def separate_registrations(monkeypatch):
    monkeypatch.setattr(ENVIRONMENT_GROUP, "_registered", {})


def test_a_built_in_environment_is_loaded_with_its_parameters():
    environment = load_environment("arithmetic", {"max_steps": 2})
    assert isinstance(environment, Arithmetic)
    assert (environment.params.min_steps, environment.params.max_steps) == (1, 2)


def test_an_environment_of_another_package_is_found(distributions):
    code = (
        "from skyrl_train.environments.environment import Environment\n"
        "class Always(Environment):\n"
        "    name = 'always'\n"
        "    def reward(self, completion, row): return 1.0\n"
    )
    distributions.add(
        "skyrl-always", {"skyrl.environments": {"always": "always_env:Always"}}, modules={"always_env.py": code}
    )
    assert type(load_environment("always")).__name__ == "Always"
    assert type(load_environment("skyrl-always:always")).__name__ == "Always"


def test_a_reference_may_name_the_distribution_before_the_name_and_the_task_after_it(distributions):
    distributions.add("skyrl-always", {"skyrl.environments": {"always": "always_env:Always"}})
    claims = ENVIRONMENT_GROUP.rows()
    assert split_reference("always", claims) == ("always", "")
    assert split_reference("always:easy:1", claims) == ("always", "easy:1")
    assert split_reference("skyrl-always:always", claims) == ("skyrl-always:always", "")
    assert split_reference("skyrl-always:always:easy", claims) == ("skyrl-always:always", "easy")


def test_a_registered_environment_gets_the_task_of_its_reference():
    register_environment("tasks", Tasks)
    environment = load_environment("tasks:sort", {"level": 3})
    assert (environment.params.task, environment.params.level) == ("sort", 3)


def test_an_unknown_name_is_an_error_that_suggests_the_nearest():
    with pytest.raises(UnknownPluginError, match="did you mean 'arithmetic'"):
        load_environment("arithmetics")
    with pytest.raises(UnknownPluginError, match="did you mean 'reasoning_gym'"):
        load_environment("reasoning_gim:leg_counting")


def test_all_invalid_parameters_are_reported_at_once():
    register_environment("tasks", Tasks)
    with pytest.raises(InvalidParamsError) as caught:
        load_environment("tasks:sort", {"level": 9, "lvel": 1})
    assert {problem.path for problem in caught.value.problems} == {"level", "lvel"}


def test_a_task_is_required_if_the_environment_has_tasks_and_an_error_if_it_has_none():
    register_environment("tasks", Tasks)
    with pytest.raises(InvalidParamsError, match=r"task.*write tasks:TASK"):
        load_environment("tasks")
    with pytest.raises(InvalidParamsError, match="differs from the task 'sort'"):
        load_environment("tasks:sort", {"task": "search"})
    with pytest.raises(UnknownPluginError, match="has no tasks: write 'arithmetic'"):
        load_environment("arithmetic:sums")


def test_a_denied_environment_is_not_loaded():
    with pytest.raises(PluginConflictError, match=r"plugins\.deny"):
        load_environment("arithmetic", policy=PluginPolicy(deny=["skyrl-train"]))


def test_a_failing_constructor_is_an_error_with_its_reason():
    register_environment("fragile", Fragile)
    with pytest.raises(PluginLoadError, match=r"fragile.*OSError: no such file: answers\.db"):
        load_environment("fragile")


def test_a_class_that_is_not_an_environment_is_an_error(distributions):
    with pytest.raises(TypeError, match="subclass of Environment"):
        register_environment("tasks", TaskParams)
    register_environment("odd", OddParams)
    with pytest.raises(PluginLoadError, match="subclass of EnvironmentParams"):
        load_environment("odd")
    distributions.add(
        "skyrl-odd", {"skyrl.environments": {"number": "number_env:VALUE"}}, modules={"number_env.py": "VALUE = 3"}
    )
    with pytest.raises(PluginLoadError, match="is 3, not a subclass of Environment"):
        load_environment("number")


def test_environments_that_rows_name_have_default_parameters():
    config = RunConfig.model_validate({"environment": {"name": "arithmetic", "params": {"max_steps": 2}}})
    configured = load_environment("arithmetic", {"max_steps": 2})
    environments = load_environments(config, configured, ["gsm8k", "arithmetic"])
    assert set(environments) == {"arithmetic", "gsm8k"}
    assert environments["arithmetic"] is configured
    assert environments["gsm8k"].params.extraction == "strict"


def test_an_unknown_environment_in_a_row_is_an_error_with_the_column():
    with pytest.raises(UnknownPluginError, match=r"'gsm9k' in the column 'environment'.*did you mean 'gsm8k'"):
        load_environments(RunConfig(), load_environment("arithmetic"), ["gsm9k"])
