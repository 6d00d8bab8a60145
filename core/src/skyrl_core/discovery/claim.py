"""One distribution's claim to the name of a plugin, and what is wrong with it."""

import re
import sys
from typing import Any, Literal, NamedTuple

from skyrl_core.discovery.installed import (
    SCRIPT,
    UNNAMED,
    Declaration,
    InstalledDistribution,
    unreadable_entry_points,
)
from skyrl_core.discovery.module_source import top_level_spec
from skyrl_core.discovery.origin import Origin, origin_of

Status = Literal["ok", "untyped", "conflict", "denied", "broken", "incompatible"]

NAME_RULE = "lower-case letters, digits and _, a letter first, at most 63 characters"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Claim(NamedTuple):
    """One distribution's claim to one name."""

    name: str
    value: str
    """``module:Attribute``."""
    distribution: str
    version: str
    status: Status
    reason: str
    """Why the status is not ok; empty when it is."""
    summary: str

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.value.partition(":")[2]

    @property
    def competes(self) -> bool:
        """Whether it keeps others from having the name.

        A well-formed claim counts although its code is missing: repairing an install must not change what a name means.
        """
        well_formed = is_name(self.name) and (is_value(self.value) or self.distribution == SCRIPT)
        return well_formed and self.status != "denied" and self.distribution != UNNAMED

    @property
    def origin(self) -> Origin | None:
        """Where its distribution was installed from; None if that is a package index, this process, or unknown."""
        return None if self.distribution == SCRIPT else origin_of(self.distribution)

    def record(self) -> dict[str, Any]:
        """Every field, and the origin, as JSON has them."""
        origin = self.origin
        return self._asdict() | {"origin": origin._asdict() if origin else None}

    def __str__(self) -> str:
        return f"{self.name!r} ({owner(self)})"


def owner(claim: Claim) -> str:
    """The distribution and its version."""
    return " ".join(filter(None, (claim.distribution, claim.version)))


def qualified(claim: Claim) -> str:
    """The reference that means this claim alone: ``distribution:name``."""
    return f"{claim.distribution}:{claim.name}"


def is_name(text: str) -> bool:
    """Whether a plugin can go by this name."""
    return _NAME.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether this is ``module:Attribute``."""
    return _VALUE.fullmatch(text) is not None


def defect(distribution: InstalledDistribution, declaration: Declaration) -> str:
    """What makes a declaration unusable, and what to do about it; empty when nothing does. Imports nothing."""
    name, value = declaration.name, declaration.value
    if distribution.problem:
        return distribution.problem
    if not is_name(name):
        return f"{name!r} is not a valid name: {NAME_RULE}"
    if not is_value(value):
        return f"its entry point {value!r} is not of the form module:Name"
    values = {other.value for other in distribution.declarations if other[:2] == declaration[:2]}
    if len(values) > 1:
        return f"{distribution.name} declares it as {' and as '.join(sorted(values))}: ask its author for one of them"
    package = value.partition(":")[0].partition(".")[0]
    if top_level_spec(package) is None:
        return f"package {package!r} cannot be found (a stale editable install?): {_reinstall(distribution.name)}"
    return ""


def repair(name: str) -> str:
    """What to do about the damaged install of a distribution."""
    return poison() or _reinstall(name)


def poison() -> str:
    """What keeps every import that looks for plugins from working, and what to do; empty when nothing does."""
    folders = unreadable_entry_points()
    if not folders:
        return ""
    return (
        f"repair or delete {' and '.join(folders)}: Python cannot read the entry_points.txt there, which is not UTF-8 "
        f"or has a line without `=`, and so whatever looks for plugins fails, `import torch` for one"
    )


def _reinstall(name: str) -> str:
    pip = f"{sys.executable} -m pip"
    # An index may have a stranger's package under the name of one that never came from there.
    if origin := origin_of(name):
        return f"it was installed from {origin}: install it again from where it is now, or {pip} uninstall {name}"
    return f"{pip} install --force-reinstall {name}"
