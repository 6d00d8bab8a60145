"""Which distributions may provide plugins: lists of names, applied before anything of theirs is imported."""

from collections.abc import Iterable
from typing import NamedTuple

from skyrl_core.discovery.installed import fold, installed_distributions, is_installed
from skyrl_core.errors import UnknownPluginError, did_you_mean


class PluginPolicy(NamedTuple):
    """An allow list and a deny list; deny beats allow. Names are compared as PEP 503 says."""

    allow: Iterable[str] | None = None
    """Names of distributions; None allows all."""
    deny: Iterable[str] = ()

    def refusal(self, distribution: str) -> str:
        """Why plugins of this distribution may not be used; empty when they may."""
        if fold(distribution) in map(fold, self.deny):
            return f"{distribution} is in plugins.deny"
        if self.allow is not None and fold(distribution) not in map(fold, self.allow):
            return f"{distribution} is not in plugins.allow"
        return ""

    def check(self) -> None:
        """Refuse an allow list that names what is not installed: a typing error there would deny in silence.

        Raises:
            UnknownPluginError: a name in ``allow`` is no installed distribution.
        """
        for name in self.allow or ():
            if not is_installed(name):
                known = [fold(distribution.name) for distribution in installed_distributions()]
                raise UnknownPluginError(
                    f"plugins.allow names the distribution {name!r}, which is not installed"
                    f"{did_you_mean(fold(name), known)}: install it, or take it off the list"
                )


ALLOW_ALL = PluginPolicy()
