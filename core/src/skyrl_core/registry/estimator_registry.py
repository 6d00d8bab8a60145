"""Loads advantage estimators by name, installed or registered in this process.

A spec is a name, or ``distribution:name`` if two distributions claim the name. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from skyrl_core.discovery.plugin_class import Plugin, class_or_function, load_class
from skyrl_core.discovery.plugin_group import (
    ADVANTAGE_ESTIMATOR_PARAMS,
    ADVANTAGE_ESTIMATORS,
    ALLOW_ALL,
    PluginGroup,
    PluginPolicy,
)
from skyrl_core.registry.resolved_plugin import ResolvedPlugin

if TYPE_CHECKING:
    from skyrl_core.contract.advantage_estimator import AdvantageEstimator
    from skyrl_core.parameters.loss_params import LossParams

ESTIMATORS = PluginGroup(ADVANTAGE_ESTIMATORS, "advantage estimator", params_group=ADVANTAGE_ESTIMATOR_PARAMS)


@overload
def register_advantage_estimator(name: str, cls: Plugin) -> Plugin: ...
@overload
def register_advantage_estimator(name: str) -> Callable[[Plugin], Plugin]: ...
def register_advantage_estimator(name: str, cls: Any = None) -> Any:
    """Register an advantage estimator of this process under a name; a call or a decorator.

    Args:
        name: lower-case letters, digits and _.
        cls: a subclass of AdvantageEstimator, or a function ``fn(rewards, groups, **params)`` of float [N] and int64
            [N] that returns advantages, float [N].

    Raises:
        ValueError: the name is malformed, or another estimator is registered under it.
        TypeError: ``cls`` is neither.
    """
    if cls is None:
        return lambda plugin: register_advantage_estimator(name, plugin)
    from skyrl_core.contract.advantage_estimator import AdvantageEstimator
    from skyrl_core.registry.function_plugins import estimator_of_function

    base: Any = AdvantageEstimator  # mypy rejects an abstract class as an argument
    estimator = class_or_function(cls, base) or estimator_of_function(name, cls)
    ESTIMATORS.register(name, estimator, source=cls)
    return cls


class ResolvedEstimator(ResolvedPlugin["AdvantageEstimator"]):
    """A resolved advantage estimator: claim, parameters and class."""

    group = ESTIMATORS

    def _load(self) -> type[AdvantageEstimator]:
        from skyrl_core.contract.advantage_estimator import AdvantageEstimator

        return load_class(ESTIMATORS, self.claim, AdvantageEstimator)  # type: ignore[type-abstract]


def load_advantage_estimator(
    spec: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> AdvantageEstimator:
    """An advantage estimator, ready to use. ``params=None`` takes the defaults.

    Raises:
        InvalidParamsError: parameters are invalid.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``ESTIMATORS.load``, or it is not an
            AdvantageEstimator, or its constructor fails.
    """
    estimator = ResolvedEstimator.find(spec, params, policy)
    return estimator.build(estimator.class_plan.at(0))
