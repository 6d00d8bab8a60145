"""Finds plugins in installed metadata, without importing any plugin. Imports no torch.

Decisions:

- Metadata is read through importlib-metadata, never through the standard library's copy: the behaviour is the same on
  every Python, it has `Distribution.origin`, which Python has only since 3.13, and it imports in half the time.
  Two metadata libraries in one process would raise two sets of exceptions.
- Entry points and headers are parsed here, line by line. `Distribution.entry_points` raises on a damaged file that a
  listing must show as a row, and `Distribution.metadata` drops every header after a malformed one.
- Version bounds are compared by packaging, but names are parsed here: importing `packaging.requirements` or
  `packaging.utils` takes 10 to 20 ms, up to a third of the time of a listing.
- A plugin's description is the first line of its module's docstring, read as text. Listing 300 losses therefore
  imports none of them, and a broken one cannot break the list.
- Two distributions that claim one name are both shown, and the bare name is rejected. Picking one would make a run
  depend on the order of installation.
"""

from skyrl_core.discovery.allow_deny import ALLOW_ALL, PluginPolicy
from skyrl_core.discovery.claim import Claim, qualified
from skyrl_core.discovery.origin import origin_of
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
from skyrl_core.discovery.printable_text import printable, shortened

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
    "origin_of",
    "printable",
    "qualified",
    "shortened",
]
