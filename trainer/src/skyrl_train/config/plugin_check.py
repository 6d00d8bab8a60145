"""Finds the plugins that a configuration names and validates their parameters, without torch.

It reads installed metadata, and imports only parameter schemas and the environment.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from skyrl_core.discovery import (
    ENVIRONMENTS,
    OBSERVERS,
    ROLLOUT_ENGINES,
    TRACKERS,
    Claim,
    PluginGroup,
    PluginPolicy,
)
from skyrl_core.errors import InvalidParamsError, SkyrlError, UnknownPluginError, nearest
from skyrl_core.registry import ESTIMATORS, LOSSES, plan_loss_params, validate_estimator_params
from skyrl_train.config.problem import NO_VALUE, Problem, kind_of
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import Sources
from skyrl_train.config.validation import unknown_option

ENVIRONMENT_GROUP = PluginGroup(ENVIRONMENTS, "environment")
ENGINE_GROUP = PluginGroup(ROLLOUT_ENGINES, "rollout engine")
TRACKER_GROUP = PluginGroup(TRACKERS, "tracker")
OBSERVER_GROUP = PluginGroup(OBSERVERS, "observer")


class HasParams(Protocol):
    """What the check looks at in an environment."""

    params: Any

    @property
    def generates_problems(self) -> bool:
        """Whether a run can do without data files."""
        ...


EnvironmentLoader = Callable[[str, Mapping[str, Any], PluginPolicy], HasParams]
"""Makes an environment of a reference and parameters. Environments are built on the config, so the caller brings it."""


class PluginCheck:
    """Looks up every plugin of one configuration and keeps what it found."""

    def __init__(
        self, config: RunConfig, sources: Sources, faulty: frozenset[str], load_environment: EnvironmentLoader
    ) -> None:
        """`faulty` are the options with an invalid value; they hold defaults here and are not checked."""
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.loss_params: dict[str, Any] = {}
        self.estimator_params: dict[str, Any] = {}
        self._config = config
        self._sources = sources
        self._faulty = faulty
        self._load_environment = load_environment
        self.generates_problems = True  # as far as is known
        self._blocks: dict[str, Any] = config.trainer.algorithm.model_extra or {}
        self._policy = self._checked_policy()
        self._check_algorithm()
        self._find(ENGINE_GROUP, "rollout.engine", config.rollout.engine)
        self._check_environment()
        for name in config.tracking.trackers:
            self._find(TRACKER_GROUP, "tracking.trackers", name)
        for name in config.plugins.observers:
            self._find(OBSERVER_GROUP, "plugins.observers", name)

    def _checked_policy(self) -> PluginPolicy:
        plugins = self._config.plugins
        try:
            plugin_policy(self._config).check()
        except UnknownPluginError as error:
            self._add("plugins.allow", list(plugins.allow or ()), str(error), kind_of(error))
            return PluginPolicy(deny=plugins.deny)
        return plugin_policy(self._config)

    def _check_algorithm(self) -> None:
        algorithm, policy = self._config.trainer.algorithm, self._policy
        loss_key, estimator_key = "trainer.algorithm.policy_loss_type", "trainer.algorithm.advantage_estimator"
        loss = self._find(LOSSES, loss_key, algorithm.policy_loss_type)
        estimator = self._find(ESTIMATORS, estimator_key, algorithm.advantage_estimator)
        self._check_blocks({claim.name for claim in (loss, estimator) if claim})
        if loss is not None:
            self.loss_params = self._check_params(
                loss_key,
                f"trainer.algorithm.{loss.name}",
                self._blocks.get(loss.name, {}),
                lambda values: plan_loss_params(algorithm.policy_loss_type, values, policy).document(),
            )
        if estimator is not None:
            self.estimator_params = self._check_params(
                estimator_key,
                f"trainer.algorithm.{estimator.name}",
                self._blocks.get(estimator.name, {}),
                lambda values: _document(validate_estimator_params(algorithm.advantage_estimator, values, policy)),
            )

    def _check_blocks(self, used: set[str]) -> None:
        """Check that each block of trainer.algorithm is named after a loss or an estimator."""
        names = {claim.name for group in (LOSSES, ESTIMATORS) for claim in group.claims(self._policy)}
        for name, value in self._blocks.items():
            key = f"trainer.algorithm.{name}"
            if name not in names:
                self._add(key, value, _unknown_block(name, value, names))
            elif not isinstance(value, dict):
                self._add(key, value, f"must be a mapping: the parameters of {name}")
            elif value and name not in used:
                self.notes.append(f"{key} has no effect: neither the loss nor the estimator of this run is {name}")

    def _check_environment(self) -> None:
        if "environment.name" not in self._faulty:
            key, params = "environment.params", self._config.environment.params
            self._check_params("environment.name", key, params, self._environment_params)

    def _environment_params(self, values: dict[str, Any]) -> dict[str, Any] | None:
        environment = self._load_environment(self._config.environment.name, values, self._policy)
        self.generates_problems = environment.generates_problems
        return _document(environment.params)

    def _find(self, group: PluginGroup, key: str, reference: str) -> Claim | None:
        if key in self._faulty:
            return None
        try:
            return group.find(reference, self._policy)
        except SkyrlError as error:
            self._add(key, reference, str(error), kind_of(error))
            return None

    def _check_params(
        self, name_key: str, key: str, values: Any, validate: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> dict[str, Any]:
        """The parameters at `key` of the plugin that `name_key` names.

        With defaults; as given where no schema is known; empty where they do not fit.
        """
        if not isinstance(values, dict):
            return {}  # a problem that is noted with the blocks
        try:
            params = validate(values)
            return values if params is None else params
        except InvalidParamsError as error:
            for problem in error.problems:
                inner = f"{key}.{problem.path}" if problem.path else key
                hint = f"; did you mean {problem.nearest}?" if problem.nearest else ""
                given = problem.value if problem.path else values
                self._add(inner, NO_VALUE if given is None else given, problem.rule + hint)
        except SkyrlError as error:
            given = self._sources.value(tuple(name_key.split(".")))
            self._add(name_key, NO_VALUE if given is None else given, str(error), kind_of(error))
        return {}

    def _add(self, key: str, value: Any, rule: str, kind: type[SkyrlError] = InvalidParamsError) -> None:
        self.problems.append(self._problem(key, value, rule, kind))

    def _problem(self, key: str, value: Any, rule: str, kind: type[SkyrlError]) -> Problem:
        origin = self._sources.origin(tuple(key.split(".")))
        return Problem(key=key, value=value, rule=rule, origin=origin, error=kind)


def plugin_policy(config: RunConfig) -> PluginPolicy:
    """The distributions that the configuration allows to provide plugins."""
    return PluginPolicy(allow=config.plugins.allow, deny=config.plugins.deny)


def _document(params: BaseModel | None) -> dict[str, Any] | None:
    return None if params is None else params.model_dump(mode="json")


def _unknown_block(name: str, value: Any, names: set[str]) -> str:
    match = nearest(name, names) if isinstance(value, dict) else None
    if match:
        return f"no installed loss or estimator has this name; did you mean trainer.algorithm.{match}?"
    return unknown_option(("trainer", "algorithm", name))
