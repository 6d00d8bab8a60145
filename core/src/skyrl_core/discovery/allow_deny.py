"""The allow and deny lists of distributions, applied before any of their plugins is imported."""

from collections.abc import Iterable
from typing import NamedTuple

from skyrl_core.discovery.installed import fold, installed_distributions, is_installed
from skyrl_core.errors import UnknownPluginError, did_you_mean


class PluginPolicy(NamedTuple):
    """An allow list and a deny list; deny beats allow. Names are compared as in PEP 503."""

    allow: Iterable[str] | None = None
    """Names of distributions; None allows all."""
    deny: Iterable[str] = ()

    def refusal(self, distribution: str) -> str:
        """The reason why plugins of this distribution are denied; empty if they are allowed."""
        if fold(distribution) in map(fold, self.deny):
            return f"{distribution} is in plugins.deny"
        if self.allow is not None and fold(distribution) not in map(fold, self.allow):
            return f"{distribution} is not in plugins.allow"
        return ""

    def check(self) -> None:
        """Reject an allow list with a name that is not installed: a typo would silently block a plugin.

        Raises:
            UnknownPluginError: a name in ``allow`` is not an installed distribution.
        """
        for name in self.allow or ():
            if not is_installed(name):
                known = [fold(distribution.name) for distribution in installed_distributions()]
                raise UnknownPluginError(
                    f"plugins.allow names the distribution {name!r}, which is not installed"
                    f"{did_you_mean(fold(name), known)}: install it, or remove it from the list"
                )


ALLOW_ALL = PluginPolicy()
