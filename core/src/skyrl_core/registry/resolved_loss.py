"""A resolved policy loss: its claim, parameters, class and identity in one object. Imports no torch."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from skyrl_core.discovery.plugin_class import load_class
from skyrl_core.discovery.plugin_group import POLICY_LOSS_PARAMS, Claim
from skyrl_core.errors import PluginConflictError, PluginLoadError
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.registry.loss_identity import LossIdentity, package_files_sha256, script_sha256
from skyrl_core.registry.loss_reference import LOSSES
from skyrl_core.registry.resolved_plugin import ResolvedPlugin

if TYPE_CHECKING:
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.registry.scheduled_loss import ScheduledLoss


class ResolvedLoss(ResolvedPlugin["PolicyLoss"]):
    """The loss of a run. A class for another version of the contract raises PluginConflictError."""

    group = LOSSES
    takes_schedules = True

    def scheduled(self) -> ScheduledLoss:
        """The loss of each optimizer step. The parameters of a typed loss are checked before it is imported."""
        _ = self.plan
        from skyrl_core.registry.scheduled_loss import ScheduledLoss

        return ScheduledLoss(self.class_plan, self.build, self.guard)

    def build(self, params: LossParams) -> PolicyLoss:
        """An instance with parameters of ``class_plan``."""
        instance = super().build(params)
        if not instance.name:
            vars(instance)["name"] = self.claim.name  # a loss without a name gets that of its entry point
        return instance

    @cached_property
    def identity(self) -> LossIdentity:
        """The identity of the loss with its parameters. Imports the loss and reads its package's files."""
        claim, loss = self.claim, self.plugin
        registered, plan = LOSSES.is_registered(claim), self.class_plan
        with self.guard.calling("components"):
            components = tuple(loss.components(plan.at(0)))
        return LossIdentity(
            distribution=claim.distribution,
            name=claim.name,
            version=claim.version,
            semantics_version=getattr(loss, "semantics_version", None),
            value=claim.value,
            files_sha256=script_sha256(LOSSES.source(claim.name)) if registered else package_files_sha256(claim),
            params=plan.document(),
            components=tuple(ResolvedLoss.find(part, values, self._policy).identity for part, values in components),
        )

    def _load(self) -> type[PolicyLoss]:
        from skyrl_core.contract.policy_loss import PolicyLoss

        loss = load_class(LOSSES, self.claim, PolicyLoss)
        _check_contract(loss, self.claim)
        if self.schema not in (None, loss.Params):
            raise PluginLoadError(
                f"policy loss {self.claim}: its entry point in {POLICY_LOSS_PARAMS} names {self.schema!r}, but "
                f"{self.claim.attribute}.Params is {loss.Params!r}: name the same class in both"
            )
        return loss


def _check_contract(loss: type[PolicyLoss], claim: Claim) -> None:
    from skyrl_core.contract.policy_loss import LOSS_API_VERSION, is_scalar_form

    where = f"policy loss {claim}: {claim.attribute}"
    # An inherited version would be that of the installed base class, and so always match.
    version = vars(loss).get("api_version")
    if not is_scalar_form(loss):
        if loss.name not in ("", claim.name):
            raise PluginLoadError(f"{where}.name is {loss.name!r}: make it {claim.name!r}, the name of its entry point")
        if version is None:
            raise PluginLoadError(
                f"{where} does not declare the contract version that it is written for: "
                f"add `api_version = {LOSS_API_VERSION}` to the class itself"
            )
    if not (isinstance(loss.Params, type) and issubclass(loss.Params, LossParams)):
        raise PluginLoadError(f"{where}.Params is {loss.Params!r}: make it a subclass of skyrl_core.LossParams")
    if version not in (None, LOSS_API_VERSION):
        raise PluginConflictError(
            f"{where} is written for version {version!r} of the loss contract, but the installed skyrl-core has "
            f"version {LOSS_API_VERSION}: install compatible versions of {claim.distribution} and skyrl-core"
        )
