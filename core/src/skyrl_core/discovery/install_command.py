"""The pip commands that add what is missing: a module that an installed distribution needs, or a plugin's package."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence

from skyrl_core.discovery.installed import fold, installed_distributions
from skyrl_core.errors import nearest

PROJECT_LOSSES: Mapping[str, str] = {"clipped_pg": "skyrl-loss-clippedpg", "entropy_reg": "skyrl-loss-entropyreg"}
"""Losses that this project publishes in separate packages; pip cannot search an index for a loss."""

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([A-Za-z0-9][A-Za-z0-9._-]*)["']""")


def pip_install(requirement: str) -> str:
    """The command that installs a requirement into the environment of this process."""
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.quote(requirement)}"


def requirement_with(dependency: str, distribution: str) -> str | None:
    """What to install for a dependency of a distribution: `skyrl-train[lora]` for peft; None if it does not need it.

    Args:
        dependency: a module or a distribution.
        distribution: an installed distribution, whose metadata is read.
    """
    wanted = fold(dependency.partition(".")[0])
    for installed in installed_distributions():
        if fold(installed.name) != fold(distribution):
            continue
        for requirement in installed.requirements:
            name, extra = _NAME.match(requirement), _EXTRA.search(requirement)
            if name and fold(name[1]) == wanted:
                return f"{installed.name}[{extra[1]}]" if extra else installed.name
    return None


def install_command(module: str, distribution: str) -> str:
    """The command that installs a missing module, through the extra of the distribution that needs it if it has one."""
    return pip_install(requirement_with(module, distribution) or fold(module.partition(".")[0]))


def command_for_loss(name: str, known: Sequence[str] = ()) -> str | None:
    """How to install the package of a loss that is unknown here; None if this project does not publish it."""
    absent = [loss for loss in PROJECT_LOSSES if loss not in known]
    match = nearest(name.rpartition(":")[2].partition("@")[0], absent)
    return f"{match} has its own package: {pip_install(PROJECT_LOSSES[match])}" if match else None
