"""Advantage estimators by name, installed or registered in this process: validated instances of them.

A reference is a name, or ``distribution:name`` where two distributions claim the name. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from skyrl_core.discovery.claim import qualified
from skyrl_core.discovery.plugin_class import Plugin, class_or_function, construct, load_class
from skyrl_core.discovery.plugin_group import (
    ADVANTAGE_ESTIMATOR_PARAMS,
    ADVANTAGE_ESTIMATORS,
    ALLOW_ALL,
    Claim,
    PluginGroup,
    PluginPolicy,
)

if TYPE_CHECKING:
    from skyrl_core.contract.advantage_estimator import AdvantageEstimator
    from skyrl_core.parameters.loss_params import LossParams

ESTIMATORS = PluginGroup(ADVANTAGE_ESTIMATORS, "advantage estimator")
ESTIMATOR_PARAMS = PluginGroup(ADVANTAGE_ESTIMATOR_PARAMS, "parameter schema of advantage estimator")


@overload
def register_advantage_estimator(name: str, cls: Plugin) -> Plugin: ...
@overload
def register_advantage_estimator(name: str) -> Callable[[Plugin], Plugin]: ...
def register_advantage_estimator(name: str, cls: Any = None) -> Any:
    """Give an advantage estimator of this process a name; a call or a decorator.

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
    from skyrl_core.registry.function_plugins import estimator_of_function

    estimator = class_or_function(cls, _base()) or estimator_of_function(name, cls)
    ESTIMATORS.register(name, estimator, source=cls)
    return cls


def validate_estimator_params(
    reference: str, values: Mapping[str, Any], policy: PluginPolicy = ALLOW_ALL
) -> LossParams | None:
    """The parameters of an estimator, checked without importing it; None where it declares no schema.

    Raises:
        InvalidParamsError: values do not fit; ``problems`` has all of them.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``PluginGroup.load``.
    """
    from skyrl_core.parameters.param_validation import validate_params

    claim = ESTIMATORS.find(reference, policy)
    schema: Any
    if ESTIMATORS.is_registered(claim):
        registered: Any = ESTIMATORS.load_claim(claim)
        schema = registered.Params
    elif any((own.name, own.distribution) == (claim.name, claim.distribution) for own in _schemas(policy)):
        schema = ESTIMATOR_PARAMS.load(qualified(claim), policy)
    else:
        return None
    checked: LossParams = validate_params(schema, values, f"advantage estimator {claim}")
    return checked


def load_advantage_estimator(
    reference: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> AdvantageEstimator:
    """An advantage estimator, ready to use. None takes the default parameters.

    Raises:
        InvalidParamsError: parameters do not fit.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``ESTIMATORS.load``, or it is no
            AdvantageEstimator, or its constructor fails.
    """
    from skyrl_core.parameters.param_validation import validate_params

    claim = ESTIMATORS.find(reference, policy)
    estimator: type[AdvantageEstimator] = load_class(ESTIMATORS, claim, _base())
    checked = validate_params(estimator.Params, dict(params or {}), f"advantage estimator {claim}")
    return construct(ESTIMATORS, estimator, checked, claim)


def _schemas(policy: PluginPolicy) -> list[Claim]:
    return ESTIMATOR_PARAMS.claims(policy)


def _base() -> Any:  # mypy takes no abstract class where a class is an argument
    from skyrl_core.contract.advantage_estimator import AdvantageEstimator

    return AdvantageEstimator
