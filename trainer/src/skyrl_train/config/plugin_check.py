"""Finds the plugins that a configuration names and validates their parameters, without torch.

It reads installed metadata, and imports only parameter schemas and the environment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from skyrl_core.discovery import (
    ENVIRONMENTS,
    OBSERVERS,
    ROLLOUT_ENGINES,
    TRACKERS,
    Claim,
    PluginGroup,
    PluginPolicy,
)
from skyrl_core.errors import MOST_LISTED, InvalidParamsError, SkyrlError, UnknownPluginError, nearest
from skyrl_core.parameters import smallest_group
from skyrl_core.registry import ESTIMATORS, LOSSES, ResolvedEstimator, ResolvedLoss, ResolvedPlugin
from skyrl_train.config.problem import NO_VALUE, Problem, kind_of
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import Sources
from skyrl_train.config.validation import unknown_option

ENVIRONMENT_GROUP = PluginGroup(ENVIRONMENTS, "environment")
ENGINE_GROUP = PluginGroup(ROLLOUT_ENGINES, "rollout engine")
TRACKER_GROUP = PluginGroup(TRACKERS, "tracker")
OBSERVER_GROUP = PluginGroup(OBSERVERS, "observer")


class MayGenerate(Protocol):
    """The part of an environment that this check uses."""

    @property
    def generates_problems(self) -> bool:
        """Whether a run can do without data files."""
        ...


Resolved = TypeVar("Resolved", bound=ResolvedPlugin[Any])

EnvironmentLoader = Callable[[str, Mapping[str, Any], PluginPolicy], MayGenerate]
"""Loads an environment by reference and parameters. The caller passes it, because environments import the config."""


class PluginCheck:
    """Looks up every plugin of a configuration once, and keeps the results and the problems.

    The attribute of a plugin that has a problem may be missing.
    """

    loss: ResolvedLoss
    estimator: ResolvedEstimator
    engine: Claim
    environment: MayGenerate

    def __init__(
        self, config: RunConfig, sources: Sources, faulty: frozenset[str], load_environment: EnvironmentLoader
    ) -> None:
        """`faulty` are the options with an invalid value; they hold defaults here and are not checked."""
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._config = config
        self._sources = sources
        self._faulty = faulty
        self._load_environment = load_environment
        self.generates_problems = True  # until the environment is loaded
        self._blocks: dict[str, Any] = config.trainer.algorithm.model_extra or {}
        self._policy = self._checked_policy()
        self._check_algorithm()
        for claim in self._find(ENGINE_GROUP, "rollout.engine", [config.rollout.engine]):
            self.engine = claim
        self._check_environment()
        self.trackers = self._find(TRACKER_GROUP, "tracking.trackers", config.tracking.trackers)
        self.observers = self._find(OBSERVER_GROUP, "plugins.observers", config.plugins.observers)

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
        losses, estimators = LOSSES.rows(policy), ESTIMATORS.rows(policy)
        loss = self._find(LOSSES, loss_key, [algorithm.policy_loss_type], losses)
        estimator = self._find(ESTIMATORS, estimator_key, [algorithm.advantage_estimator], estimators)
        self._check_blocks({claim.name for claim in loss + estimator}, {row.name for row in losses + estimators})
        for claim in loss:
            self.loss = self._resolved(ResolvedLoss, claim, loss_key)
        for claim in estimator:
            self.estimator = self._resolved(ResolvedEstimator, claim, estimator_key)
            self._note_small_groups()

    def _note_small_groups(self) -> None:
        samples, name = self._config.trainer.samples_per_prompt, self.estimator.claim.name
        with suppress(SkyrlError):  # invalid parameters are reported elsewhere
            if samples < smallest_group(self.estimator.plan.at(0)):
                self.notes.append(
                    f"trainer.samples_per_prompt = {samples} gives no advantages, because {name} compares the samples "
                    "of a prompt: training starts only with a loss or a term that needs none"
                )

    def _check_blocks(self, used: set[str], names: set[str]) -> None:
        """Check that each block of trainer.algorithm is named after a loss or an estimator."""
        for name, value in self._blocks.items():
            key = f"trainer.algorithm.{name}"
            if name not in names:
                suggest = len(self.problems) < MOST_LISTED
                self._add(key, value, _unknown_block(name, value, names if suggest else set(), suggest=suggest))
            elif not isinstance(value, dict):
                self._add(key, value, f"must be a mapping: the parameters of {name}")
            elif value and name not in used:
                self.notes.append(f"{key} has no effect: neither the loss nor the estimator of this run is {name}")

    def _resolved(self, kind: type[Resolved], claim: Claim, name_key: str) -> Resolved:
        """The loss or the estimator with the parameters from its block."""
        values = self._blocks.get(claim.name, {})
        if not isinstance(values, dict):
            return kind(claim)  # `_check_blocks` has reported the problem
        resolved = kind(claim, values, self._policy)
        self._check_params(name_key, f"trainer.algorithm.{claim.name}", values, lambda: resolved.params)
        return resolved

    def _check_environment(self) -> None:
        if "environment.name" not in self._faulty:
            params = self._config.environment.params
            self._check_params("environment.name", "environment.params", params, self._make_environment)

    def _make_environment(self) -> None:
        environment = self._config.environment
        self.environment = self._load_environment(environment.name, environment.params, self._policy)
        guard = ENVIRONMENT_GROUP.guard_of(type(self.environment), f"environment {environment.name}")
        with guard.calling("generates_problems"):
            self.generates_problems = bool(self.environment.generates_problems)

    def _find(
        self, group: PluginGroup, key: str, references: Iterable[str], rows: Sequence[Claim] | None = None
    ) -> list[Claim]:
        """The plugins that an option names; a problem is recorded instead of its plugin."""
        found: list[Claim] = []
        if key in self._faulty:
            return found
        for reference in references:
            try:
                rows = group.rows(self._policy) if rows is None else rows
                found.append(group.find(reference, self._policy, rows=rows))
            except SkyrlError as error:
                self._add(key, reference, str(error), kind_of(error))
        return found

    def _check_params(self, name_key: str, key: str, values: dict[str, Any], check: Callable[[], object]) -> None:
        """Run `check`, and record problems with the parameters at `key` of the plugin that `name_key` names."""
        try:
            check()
        except InvalidParamsError as error:
            for problem in error.problems:
                inner = f"{key}.{problem.path}" if problem.path else key
                hint = f"; did you mean {problem.nearest}?" if problem.nearest else ""
                given = problem.value if problem.path else values
                self._add(inner, NO_VALUE if given is None else given, problem.rule + hint)
        except SkyrlError as error:
            given = self._sources.value(tuple(name_key.split(".")))
            self._add(name_key, NO_VALUE if given is None else given, str(error), kind_of(error), error)

    def _add(
        self,
        key: str,
        value: Any,
        rule: str,
        kind: type[SkyrlError] = InvalidParamsError,
        cause: SkyrlError | None = None,
    ) -> None:
        origin = self._sources.origin(tuple(key.split(".")))
        self.problems.append(Problem(key=key, value=value, rule=rule, origin=origin, error=kind, cause=cause))


def plugin_policy(config: RunConfig) -> PluginPolicy:
    """The distributions that the configuration allows to provide plugins."""
    return PluginPolicy(allow=config.plugins.allow, deny=config.plugins.deny)


def _unknown_block(name: str, value: Any, names: set[str], *, suggest: bool) -> str:
    match = nearest(name, names) if isinstance(value, dict) else None
    if match:
        return f"no installed loss or estimator has this name; did you mean trainer.algorithm.{match}?"
    return unknown_option(("trainer", "algorithm", name), suggest=suggest)
