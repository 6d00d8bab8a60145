"""Losses by name, installed or registered in this process: validated instances of them.

A reference is a name, ``distribution:name`` where two distributions claim the name, and either with ``@2`` to demand a
semantics version. Importing this imports no torch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from skyrl_core.discovery.plugin_class import Plugin, class_or_function, construct, load_class
from skyrl_core.discovery.plugin_group import ALLOW_ALL, POLICY_LOSS_PARAMS, Claim, PluginGroup, PluginPolicy
from skyrl_core.errors import PluginConflictError, PluginLoadError
from skyrl_core.registry.loss_identity import LossIdentity, package_files_sha256, script_sha256
from skyrl_core.registry.loss_reference import LOSSES as LOSSES

if TYPE_CHECKING:
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.parameters.loss_params import LossParams
    from skyrl_core.parameters.parameter_plan import ParamPlan
    from skyrl_core.registry.scheduled_loss import ScheduledLoss

LOSS_PARAMS = PluginGroup(POLICY_LOSS_PARAMS, "parameter schema of policy loss")


@overload
def register_policy_loss(name: str, cls: Plugin) -> Plugin: ...
@overload
def register_policy_loss(name: str) -> Callable[[Plugin], Plugin]: ...
def register_policy_loss(name: str, cls: Any = None) -> Any:
    """Give a loss of this process a name; a call or a decorator.

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


def loss_params_class(claim: Claim, policy: PluginPolicy = ALLOW_ALL) -> type[LossParams] | None:
    """The parameter schema that a loss declares, had without importing the loss; None for an untyped loss.

    Raises:
        PluginLoadError: the schema cannot be imported or is no LossParams.
    """
    from skyrl_core.parameters.loss_params import LossParams

    if LOSSES.is_registered(claim):
        registered: Any = LOSSES.load_claim(claim)
        schema = registered.Params
    elif claim.status == "untyped":
        return None
    else:
        schema = LOSS_PARAMS.load(f"{claim.distribution}:{claim.name}", policy)
    if not (isinstance(schema, type) and issubclass(schema, LossParams)):
        raise PluginLoadError(
            f"the parameter schema of policy loss {claim} is {reprlib.repr(schema)}, not a subclass of LossParams"
        )
    return schema


def plan_loss_params(
    reference: str, values: Mapping[str, Any], policy: PluginPolicy = ALLOW_ALL
) -> ParamPlan[LossParams]:
    """The parameters of a loss over a run, checked at every knot of their schedules.

    Imports no torch where the loss declares a schema. An untyped loss that is installed gets OpenLossParams, which
    takes anything: what its class says of its parameters is known only when it is loaded.

    Raises:
        InvalidParamsError: values do not fit; ``problems`` has all of them.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``PluginGroup.load``.
    """
    from skyrl_core.parameters.loss_params import OpenLossParams

    claim = LOSSES.find(reference, policy)
    return _plan(loss_params_class(claim, policy) or OpenLossParams, values, claim, policy)


def validate_loss_params(reference: str, values: Mapping[str, Any], policy: PluginPolicy = ALLOW_ALL) -> LossParams:
    """The parameters of a loss at the first step, checked; otherwise as ``plan_loss_params``."""
    return plan_loss_params(reference, values, policy).at(0)


def load_loss_class(claim: Claim, policy: PluginPolicy = ALLOW_ALL) -> type[PolicyLoss]:
    """The class of a claim from ``LOSSES.find``, imported and found to be what its entry point promises.

    Raises:
        PluginConflictError: it is written for another version of the contract.
        PluginLoadError: its import fails, it is no PolicyLoss, or has another name or schema than its entry points.
    """
    from skyrl_core.contract.policy_loss import PolicyLoss

    loss = load_class(LOSSES, claim, PolicyLoss)
    _check_contract(loss, claim)
    schema = loss_params_class(claim, policy)
    if schema not in (None, loss.Params):
        raise PluginLoadError(
            f"policy loss {claim}: its entry point in {POLICY_LOSS_PARAMS} names {schema!r}, but "
            f"{claim.attribute}.Params is {loss.Params!r}: name one class in both"
        )
    return loss


def load_scheduled_loss(
    reference: str, params: Mapping[str, Any] | None = None, policy: PluginPolicy = ALLOW_ALL
) -> ScheduledLoss:
    """A loss whose parameters may be schedules: found, imported, checked at every knot. None takes the defaults.

    Raises:
        InvalidParamsError: parameters do not fit; those of a typed loss are checked before it is imported.
        UnknownPluginError, PluginConflictError, PluginLoadError: as ``LOSSES.find`` and ``load_loss_class``, or its
            constructor fails.
    """
    values = dict(params or {})
    plan_loss_params(reference, values, policy)
    claim = LOSSES.find(reference, policy)
    loss = load_loss_class(claim, policy)
    from skyrl_core.registry.scheduled_loss import ScheduledLoss

    def build(checked: LossParams) -> PolicyLoss:
        instance = construct(LOSSES, loss, checked, claim)
        if not instance.name:
            vars(instance)["name"] = claim.name  # a loss without a name of its own goes by its entry point's
        return instance

    return ScheduledLoss(_plan(loss.Params, values, claim, policy), build)


def load_policy_loss(
    reference: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> PolicyLoss:
    """A loss, ready to use: that of the first step, where parameters are schedules. None takes the defaults.

    Raises:
        InvalidParamsError, UnknownPluginError, PluginConflictError, PluginLoadError: as ``load_scheduled_loss``.
    """
    return load_scheduled_loss(reference, dict(params or {}), policy).loss


def describe_loss(
    reference: str, params: Mapping[str, Any] | LossParams | None = None, policy: PluginPolicy = ALLOW_ALL
) -> LossIdentity:
    """Which loss exactly a reference means, with these parameters. Imports the loss; reads its package's files.

    Raises:
        InvalidParamsError, UnknownPluginError, PluginConflictError: as ``load_policy_loss``.
        PluginLoadError: likewise, or its files cannot be read.
    """
    claim = LOSSES.find(reference, policy)
    loss, registered = load_loss_class(claim, policy), LOSSES.is_registered(claim)
    plan = _plan(loss.Params, dict(params or {}), claim, policy)
    return LossIdentity(
        distribution=claim.distribution,
        name=claim.name,
        version=claim.version,
        semantics_version=getattr(loss, "semantics_version", None),
        value=claim.value,
        files_sha256=script_sha256(LOSSES.source(claim.name)) if registered else package_files_sha256(claim),
        params=plan.document(),
        components=tuple(describe_loss(part, values, policy) for part, values in loss.components(plan.at(0))),
    )


def _plan(
    schema: type[LossParams], values: Mapping[str, Any], claim: Claim, policy: PluginPolicy
) -> ParamPlan[LossParams]:
    from skyrl_core.parameters.parameter_plan import ParamPlan

    return ParamPlan(schema, values, f"policy loss {claim}", context={"policy": policy})


def _check_contract(loss: type[PolicyLoss], claim: Claim) -> None:
    from skyrl_core.contract.policy_loss import LOSS_API_VERSION, is_scalar_form
    from skyrl_core.parameters.loss_params import LossParams

    where = f"policy loss {claim}: {claim.attribute}"
    # An inherited version would be that of whatever base class is installed, and so always right.
    version = vars(loss).get("api_version")
    if not is_scalar_form(loss):
        if loss.name not in ("", claim.name):
            raise PluginLoadError(f"{where}.name is {loss.name!r}: make it {claim.name!r}, the name that it goes by")
        if version is None:
            raise PluginLoadError(
                f"{where} does not say which version of the contract it is written for: "
                f"add `api_version = {LOSS_API_VERSION}` to the class itself"
            )
    if not (isinstance(loss.Params, type) and issubclass(loss.Params, LossParams)):
        raise PluginLoadError(f"{where}.Params is {loss.Params!r}: make it a subclass of skyrl_core.LossParams")
    if version not in (None, LOSS_API_VERSION):
        raise PluginConflictError(
            f"{where} is written for version {version!r} of the loss contract, the installed skyrl-core has version "
            f"{LOSS_API_VERSION}: install versions of {claim.distribution} and skyrl-core that agree"
        )
