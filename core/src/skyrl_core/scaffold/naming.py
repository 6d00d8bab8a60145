"""The names in the package of a new loss, all made of one: entry point, distribution, module and classes.

Read from installed metadata alone; imports no plugin.
"""

import re
from itertools import chain, count
from keyword import iskeyword
from typing import NamedTuple

from skyrl_core.discovery.installed import is_installed
from skyrl_core.discovery.plugin_group import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, PluginGroup
from skyrl_core.errors import SkyrlError

MAX_LENGTH = 40
"""Of the loss's name; the lines of the package that hold it twice stay within 120 characters."""
BASE_CLASSES = frozenset({"PolicyLoss", "LossParams"})

TRAINER_OPTIONS = frozenset(
    {
        *("policy_loss_type", "loss_reduction", "max_length", "advantage_estimator", "kl_coef", "kl_estimator"),
        *("kl_reward_coef", "kl_reward_estimator", "entropy_coef", "high_entropy_fraction", "skip_zero_advantages"),
        "off_policy",
    }
)
"""Of trainer.algorithm, where the parameters of a loss have a block under its name."""

_RULE = f"a name is made of letters and digits in words joined by _ or -, a letter first, at most {MAX_LENGTH} in all"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_GROUPS = (PluginGroup(POLICY_LOSSES, "policy loss"), PluginGroup(ADVANTAGE_ESTIMATORS, "advantage estimator"))


class PackageNames(NamedTuple):
    """What things are called in the package of one loss."""

    loss: str
    """The entry point: what a config and ``--loss`` say."""
    distribution: str
    """What pip installs."""
    module: str
    loss_class: str
    params_class: str


def package_names(given: str) -> PackageNames:
    """The names for ``soft_clip``, which may be written as ``soft-clip`` and ``SoftClip`` too.

    Raises:
        SkyrlError: no loss can have this name, or something installed has it; says which name is free.
    """
    name = _snake_case(given)
    why = _refusal(name) if _is_well_formed(name) else _RULE
    if iskeyword(given):
        why = f"{given} is a keyword of Python"
    if why:
        free = _nearest_free(name)
        raise SkyrlError(f"a new loss cannot be named {given!r}: {why}{f'; {free!r} is free' if free else ''}")
    return _names(name)


def _names(name: str) -> PackageNames:
    words = name.split("_")
    joined, camel = "".join(words), "".join(word.capitalize() for word in words)
    return PackageNames(name, f"skyrl-loss-{joined}", f"skyrl_loss_{joined}", f"{camel}Loss", f"{camel}Params")


def _refusal(name: str) -> str:
    """Why a well-formed name cannot be had; empty when it can."""
    names = _names(name)
    if iskeyword(name):
        return f"{name} is a keyword of Python"
    if name in TRAINER_OPTIONS:
        return f"trainer.algorithm.{name} is an option, where the parameters of the loss would be"
    for base in BASE_CLASSES & {names.loss_class, names.params_class}:
        return f"one of its classes would have the name of its base class, {base}"
    for group in _GROUPS:
        # A loss and an estimator of one name would share one block of parameters in a config.
        for claim in group.claims():
            if claim.name == name:
                return f"{group.kind} {claim} is installed"
    return f"the distribution {names.distribution} is installed" if is_installed(names.distribution) else ""


def _nearest_free(name: str) -> str:
    """A name like this one that can be had; empty where too little is left of it."""
    near = re.sub(r"[^a-z0-9]+", "_", name).lstrip("0123456789_")[: MAX_LENGTH - len("_99")].rstrip("_")
    if not near:
        return ""
    candidates = chain([near], (f"{near}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if not _refusal(candidate))


def _is_well_formed(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(name) <= MAX_LENGTH


def _snake_case(name: str) -> str:
    return _WORD_START.sub("_", name).replace("-", "_").lower()
