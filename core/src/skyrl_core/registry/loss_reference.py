"""The group of policy losses, found by specs that may pin a semantics version. Imports no torch.

A spec is ``name``, or ``distribution:name`` if two distributions claim the name. Either may end with ``@2``, which
requires semantics version 2, so that a config never trains with a loss whose numbers have changed.
"""

import sys
from collections.abc import Sequence

from skyrl_core.discovery.module_source import class_constants, source_file
from skyrl_core.discovery.plugin_group import (
    ALLOW_ALL,
    POLICY_LOSS_PARAMS,
    POLICY_LOSSES,
    Claim,
    PluginGroup,
    PluginPolicy,
)
from skyrl_core.errors import PluginConflictError, UnknownPluginError

LONGEST_VERSION = 9
"""Digits of a semantics version."""


class LossGroup(PluginGroup):
    """The group ``skyrl.policy_losses``, and the losses registered in this process."""

    def __init__(self) -> None:
        super().__init__(POLICY_LOSSES, "policy loss", params_group=POLICY_LOSS_PARAMS)

    def find(self, spec: str, policy: PluginPolicy = ALLOW_ALL, *, rows: Sequence[Claim] | None = None) -> Claim:
        """As ``PluginGroup.find``; another semantics version than the spec pins is a conflict too."""
        name, pinned, version = spec.partition("@")
        claim = super().find(name, policy, rows=rows)
        if not pinned:
            return claim
        if not (version.isdecimal() and version.isascii() and len(version) <= LONGEST_VERSION):
            raise UnknownPluginError(
                f"policy loss {spec!r}: after @ must come a semantics version, a whole number, such as {name}@1"
            )
        found = self._semantics(claim)
        if found != int(version):
            has = "declares no semantics_version" if found is None else f"has semantics version {found}"
            raise PluginConflictError(
                f"policy loss {claim} {has}, not {version}: its numbers differ from those of {spec!r}. Install "
                f"a version that has them (`{sys.executable} -m pip index versions {claim.distribution}`), or write "
                f"{name}{'' if found is None else f'@{found}'}"
            )
        return claim

    def _semantics(self, claim: Claim) -> object:
        if self.is_registered(claim):
            return getattr(self.load_claim(claim), "semantics_version", None)
        file = source_file(claim.module)
        return class_constants(file, claim.attribute).get("semantics_version") if file else None


LOSSES = LossGroup()


def loss_name(spec: str) -> str:
    """The entry-point name in a spec, which also names the block of its parameters."""
    return spec.partition("@")[0].rpartition(":")[2]
