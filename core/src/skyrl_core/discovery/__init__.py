"""Plugins found in installed metadata, without importing any of them. Imports no torch.

Decisions:

- Metadata is read through importlib-metadata, never through the standard library's copy: the behaviour is the same on
  every Python, and two metadata libraries in one process would raise two sets of exceptions.
- A plugin's description is the first line of its module's docstring, read as text. Listing 300 losses therefore
  imports none of them, and a broken one cannot break the list.
- Two distributions that claim one name are both shown, and the bare name is refused. Picking one would make a run
  depend on the order of installation.
"""

from skyrl_core.discovery.allow_deny import ALLOW_ALL, PluginPolicy
from skyrl_core.discovery.claim import Claim, qualified
from skyrl_core.discovery.installed import printable, shortened
from skyrl_core.discovery.plugin_class import Plugin, class_or_function, construct, load_class
from skyrl_core.discovery.plugin_group import (
    ADVANTAGE_ESTIMATORS,
    ENVIRONMENTS,
    OBSERVERS,
    POLICY_LOSSES,
    ROLLOUT_ENGINES,
    TRACKERS,
    PluginGroup,
)

__all__ = [
    "ADVANTAGE_ESTIMATORS",
    "ALLOW_ALL",
    "Claim",
    "ENVIRONMENTS",
    "OBSERVERS",
    "POLICY_LOSSES",
    "Plugin",
    "PluginGroup",
    "PluginPolicy",
    "ROLLOUT_ENGINES",
    "TRACKERS",
    "class_or_function",
    "construct",
    "load_class",
    "printable",
    "qualified",
    "shortened",
]
