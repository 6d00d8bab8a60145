"""A distribution's claim to a plugin name, and the defects that make it unusable."""

import re
import sys
from typing import Any, Literal, NamedTuple

from skyrl_core.discovery.installed import (
    SCRIPT,
    UNNAMED,
    Declaration,
    InstalledDistribution,
    endless_files,
    unreadable_entry_points,
)
from skyrl_core.discovery.module_source import unfindable
from skyrl_core.discovery.origin import Origin, origin_of

Status = Literal["ok", "untyped", "conflict", "denied", "broken", "incompatible"]

NAME_RULE = "lower-case letters, digits and _, a letter first, at most 63 characters"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Claim(NamedTuple):
    """A distribution's claim to a plugin name."""

    name: str
    value: str
    """``module:Attribute``."""
    distribution: str
    version: str
    status: Status
    reason: str
    """Why the status is not ok; empty if it is ok."""
    summary: str

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.value.partition(":")[2]

    @property
    def competes(self) -> bool:
        """Whether it conflicts with other claims to the name.

        A well-formed claim counts even if its code is missing: repairing an install must not change what a name means.
        """
        well_formed = is_name(self.name) and (is_value(self.value) or self.distribution == SCRIPT)
        return well_formed and self.status != "denied" and self.distribution != UNNAMED

    @property
    def origin(self) -> Origin | None:
        """Where its distribution was installed from; None for an index, this process, or if unknown."""
        return None if self.distribution == SCRIPT else origin_of(self.distribution)

    def record(self) -> dict[str, Any]:
        """Every field and the origin, as JSON values."""
        origin = self.origin
        return self._asdict() | {"origin": origin._asdict() if origin else None}

    def __str__(self) -> str:
        return f"{self.name!r} ({owner(self)})"


def owner(claim: Claim) -> str:
    """The distribution and its version."""
    return " ".join(filter(None, (claim.distribution, claim.version)))


def qualified(claim: Claim) -> str:
    """The spec that means only this claim: ``distribution:name``."""
    return f"{claim.distribution}:{claim.name}"


def is_name(text: str) -> bool:
    """Whether this is a valid plugin name."""
    return _NAME.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether this is ``module:Attribute``."""
    return _VALUE.fullmatch(text) is not None


def defect(distribution: InstalledDistribution, declaration: Declaration) -> str:
    """Why a declaration is unusable, and how to fix it; empty if it is usable. Imports nothing."""
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
    if missing := unfindable(package):
        return f"{missing} (a stale editable install?): {_reinstall(distribution.name)}"
    return ""


def repair(name: str) -> str:
    """How to repair the damaged install of a distribution."""
    return broken_entry_points() or _reinstall(name)


def broken_entry_points() -> str:
    """Why every import that reads entry points fails, and how to fix it; empty if none does."""
    folders = unreadable_entry_points()
    if not folders:
        return ""
    return (
        f"repair or delete {' and '.join(folders)}: Python cannot read the entry_points.txt there, which is not UTF-8 "
        f"or has a line without `=`, so everything that reads entry points fails, including `import torch`"
    )


def endless_metadata() -> str:
    """Why imports that read metadata would never end, and how to fix it; empty if none would."""
    files = endless_files()
    if not files:
        return ""
    return (
        f"repair or delete {' and '.join(files)}: whatever reads the metadata of all packages waits there forever, "
        "including `import torch`"
    )


def _reinstall(name: str) -> str:
    pip = f"{sys.executable} -m pip"
    # If it never came from an index, the index may have an unrelated package under its name.
    if origin := origin_of(name):
        return f"it was installed from {origin}: reinstall it from its current location, or {pip} uninstall {name}"
    return f"{pip} install --force-reinstall {name}"
