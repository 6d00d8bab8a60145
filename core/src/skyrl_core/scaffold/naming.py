"""Derives the names in a new loss's package from one: entry point, distribution, module and classes.

It reads only installed metadata and imports no plugin.
"""

import re
from itertools import chain, count
from keyword import iskeyword
from typing import NamedTuple

from skyrl_core.discovery.installed import is_installed
from skyrl_core.discovery.plugin_group import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, PluginGroup
from skyrl_core.errors import SkyrlError

MAX_LENGTH = 40
"""Of the name of a loss, so that lines of the package that contain it twice stay within 120 characters."""
BASE_CLASSES = frozenset({"PolicyLoss", "LossParams"})

TRAINER_OPTIONS = frozenset(
    {
        *("policy_loss_type", "loss_reduction", "max_length", "advantage_estimator", "kl_coef", "kl_estimator"),
        *("kl_reward_coef", "kl_reward_estimator", "entropy_coef", "high_entropy_fraction", "skip_zero_advantages"),
        "off_policy",
    }
)
"""Options of trainer.algorithm, which also holds the parameters of a loss in a block under its name."""

_RULE = f"use words of letters and digits joined by _ or -, starting with a letter, at most {MAX_LENGTH} characters"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_GROUPS = (PluginGroup(POLICY_LOSSES, "policy loss"), PluginGroup(ADVANTAGE_ESTIMATORS, "advantage estimator"))


class PackageNames(NamedTuple):
    """The names in the package of one loss."""

    loss: str
    """The entry point, which configs and ``--loss`` refer to."""
    distribution: str
    """The package that pip installs."""
    module: str
    loss_class: str
    params_class: str


def package_names(given: str) -> PackageNames:
    """Derive the names from ``soft_clip``, which may also be written ``soft-clip`` or ``SoftClip``.

    Raises:
        SkyrlError: the name is not valid or already taken; the message suggests a free one.
    """
    name = _snake_case(given)
    reason = _why_unavailable(name) if _is_well_formed(name) else _RULE
    if iskeyword(given):
        reason = f"{given} is a Python keyword"
    if reason:
        free = _nearest_free(name)
        raise SkyrlError(f"a new loss cannot be named {given!r}: {reason}{f'; {free!r} is free' if free else ''}")
    return _names(name)


def _names(name: str) -> PackageNames:
    words = name.split("_")
    joined, camel = "".join(words), "".join(word.capitalize() for word in words)
    return PackageNames(name, f"skyrl-loss-{joined}", f"skyrl_loss_{joined}", f"{camel}Loss", f"{camel}Params")


def _why_unavailable(name: str) -> str:
    """Return why a well-formed name is not available; empty if it is."""
    names = _names(name)
    if iskeyword(name):
        return f"{name} is a Python keyword"
    if name in TRAINER_OPTIONS:
        return f"trainer.algorithm.{name} is an option, so it cannot hold the parameters of a loss"
    for base in BASE_CLASSES & {names.loss_class, names.params_class}:
        return f"one of its classes would have the same name as its base class, {base}"
    for group in _GROUPS:
        # A loss and an estimator of the same name would share a block of parameters in a config.
        for claim in group.claims():
            if claim.name == name:
                return f"{group.kind} {claim} is installed"
    return f"the distribution {names.distribution} is installed" if is_installed(names.distribution) else ""


def _nearest_free(name: str) -> str:
    """Return the most similar available name; empty if no valid character is left."""
    near = re.sub(r"[^a-z0-9]+", "_", name).lstrip("0123456789_")[: MAX_LENGTH - len("_99")].rstrip("_")
    if not near:
        return ""
    candidates = chain([near], (f"{near}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if not _why_unavailable(candidate))


def _is_well_formed(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and len(name) <= MAX_LENGTH


def _snake_case(name: str) -> str:
    return _WORD_START.sub("_", name).replace("-", "_").lower()
