"""Loads policy losses by name, installed or registered in this process.

A spec is a name, or ``distribution:name`` if two distributions claim the name; either may end with ``@2`` to require a
semantics version. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from skyrl_core.discovery.plugin_class import Plugin, class_or_function
from skyrl_core.discovery.plugin_group import ALLOW_ALL, Claim, PluginPolicy
from skyrl_core.registry.loss_reference import LOSSES as LOSSES

if TYPE_CHECKING:
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.parameters.loss_params import LossParams
    from skyrl_core.registry.loss_identity import LossIdentity
    from skyrl_core.registry.resolved_loss import ResolvedLoss


@overload
def register_policy_loss(name: str, cls: Plugin) -> Plugin: ...
@overload
def register_policy_loss(name: str) -> Callable[[Plugin], Plugin]: ...
def register_policy_loss(name: str, cls: Any = None) -> Any:
    """Register a loss of this process under a name; a call or a decorator.

    Args:
        name: lower-case letters, digits and _.
        cls: a subclass of PolicyLoss, or a function ``fn(log_probs, old_log_probs, advantages, masks, **kwargs)`` of
            float [B, T] tensors that returns the scalar loss. A function gets its parameters as keyword arguments.

    Raises:
        ValueError: the name is malformed, or another loss is registered under it.
        TypeError: ``cls`` is neither.
    """
    if cls is None:
        return lambda plugin: register_policy_loss(name, plugin)
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.parameters.loss_params import OpenLossParams
    from skyrl_core.registry.function_plugins import loss_of_function

    loss = class_or_function(cls, PolicyLoss) or loss_of_function(name, cls)
    reason = "it declares no Params: its parameters are not checked" if loss.Params is OpenLossParams else ""
    LOSSES.register(name, loss, source=cls, status="untyped" if reason else "ok", reason=reason)
    return cls


def policy_losses(policy: PluginPolicy = ALLOW_ALL) -> list[Claim]:
    """Every loss, installed or registered, whatever its status; imports none of them."""
    return LOSSES.claims(policy)


def validate_loss_params(spec: str, values: Mapping[str, Any], policy: PluginPolicy = ALLOW_ALL) -> LossParams:
    """The parameters of a loss at the first step, checked at every knot of their schedules.

    Imports no torch if the loss declares a schema. An installed untyped loss gets OpenLossParams, which accepts
    anything: a schema that only its class declares is unknown until it is loaded.

    Raises:
        InvalidParamsError: values are invalid; ``problems`` lists every problem.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``PluginGroup.load``.
    """
    return _resolved(spec, values, policy).plan.at(0)


def load_policy_loss(
    spec: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> PolicyLoss:
    """A loss, ready to use, with schedules at their first step. ``params=None`` takes the defaults.

    Raises:
        InvalidParamsError: parameters are invalid; those of a typed loss are checked before it is imported.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``LOSSES.find``; its class is not what its entry
            point promises, or its constructor fails.
    """
    return _resolved(spec, params, policy).scheduled().loss


def describe_loss(
    spec: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> LossIdentity:
    """The identity of a loss with these parameters. Imports the loss and reads its package's files.

    Raises:
        InvalidParamsError, UnknownPluginError, PluginConflictError: as ``load_policy_loss``.
        PluginLoadError: likewise, or its files cannot be read.
    """
    return _resolved(spec, params, policy).identity


def _resolved(spec: str, values: Mapping[str, Any] | LossParams | None, policy: PluginPolicy) -> ResolvedLoss:
    from skyrl_core.registry.resolved_loss import ResolvedLoss  # it imports pydantic, which a listing does not need

    return ResolvedLoss.find(spec, values, policy)
